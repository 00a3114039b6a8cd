"""Test: what a trained network makes of a split, measured and kept."""
