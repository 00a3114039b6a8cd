"""What a dataset and a training run will need, planned from what was measured: ``v4d plan``."""
