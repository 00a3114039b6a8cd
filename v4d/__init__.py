"""Networks, training and evaluation."""
