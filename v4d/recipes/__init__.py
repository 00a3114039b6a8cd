"""Recipes: the packaged ones, a TOML file each, how they are read, and how they are shown."""
