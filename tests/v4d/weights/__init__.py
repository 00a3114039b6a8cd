"""Tests are a package: else pytest would take tests/pipelines for pipelines."""
