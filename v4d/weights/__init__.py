"""Weights: files that hold a network whole, and what other projects' weights become here."""
