"""``v4d doctor``: what this machine has, and what of training would be slow or fail on it, and why."""
