"""The packaged recipes, one TOML file each."""
