"""Weights: files that hold a network whole, and what other projects' weights become here."""

from v4d.weights.weights_file import WeightsInfo, load_pretrained, read_info, save_weights

__all__ = ["WeightsInfo", "load_pretrained", "read_info", "save_weights"]
