# Everything installs into .venv, which the first target makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: bench-data bench-preprocess demo test lint docs pictures speed-table bench-index bench-layers bench-memory \
	bench-model bench-train clean

demo: .venv/installed
	$(BIN)/v4d demo

test: .venv/installed
	$(BIN)/pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site of docs/, in build/docs: a page that is not found, or not linked, ends it.
docs: .venv/installed
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs build/docs

# The README's picture, and its table of speeds; with BENCH=FILE MACHINE=NAME of v4d bench data --compare --json.
pictures: .venv/installed
	$(BIN)/python docs/picture.py

speed-table: .venv/installed
	$(BIN)/python -m benchmarks.speed_table $(if $(BENCH),--bench $(BENCH) --machine '$(MACHINE)')

# Over clips made for it, or over those of VIDEOS=DIR; SECONDS_PER_CLIP=10 makes these into clips of that length.
bench-data: .venv/installed
	$(BIN)/python -m benchmarks.data $(if $(VIDEOS),--videos $(VIDEOS)) \
		$(if $(SECONDS_PER_CLIP),--seconds-per-clip $(SECONDS_PER_CLIP))

bench-preprocess: .venv/installed
	$(BIN)/python benchmarks/preprocessing.py $(if $(VIDEOS),--videos $(VIDEOS))

bench-index: .venv/installed
	$(BIN)/python -m benchmarks.large_index

bench-layers: .venv/installed
	$(BIN)/python benchmarks/temporal_layers.py $(if $(VIDEOS),--videos $(VIDEOS))

# The memory of the loader over 10,000 batches of DATA.
bench-memory: .venv/installed
	$(BIN)/python -m benchmarks.loader_memory $(DATA)

# DEPTH=18 for one network, DEVICE=cuda for a GPU, OPTIONS=--compile.
bench-model: .venv/installed
	$(BIN)/python -m benchmarks.model $(if $(DEPTH),--depth $(DEPTH)) $(if $(DEVICE),--device $(DEVICE)) $(OPTIONS)

# What the trainer costs beside a bare loop: on the demo's videos, or on DATA=shards/NAME. OPTIONS='--gpus 1 --rounds 5'.
# With OPTIONS='--videos DIR', of what DATA was made of, beside torch's DataLoader with decord too.
bench-train: .venv/installed
	$(BIN)/python -m benchmarks.training $(DATA) $(if $(RECIPE),--recipe $(RECIPE)) $(OPTIONS)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo
