"""Prediction: what a trained network makes of single video files, and where it looks."""
