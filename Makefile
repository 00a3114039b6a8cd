# Everything installs into .venv, which the first target makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: bench-preprocess demo test lint bench-index bench-layers clean

demo: .venv/installed
	$(BIN)/v4d demo

test: .venv/installed
	$(BIN)/pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-preprocess: .venv/installed
	$(BIN)/python benchmarks/preprocessing.py $(if $(VIDEOS),--videos $(VIDEOS))

bench-index: .venv/installed
	$(BIN)/python benchmarks/large_index.py

bench-layers: .venv/installed
	$(BIN)/python benchmarks/temporal_layers.py $(if $(VIDEOS),--videos $(VIDEOS))

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo
