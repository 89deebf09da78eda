# Each target sets up what it needs: a virtual environment in .venv, installed once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS ?= tests

.PHONY: demo test lint parity pipeline bench clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/videoseg demo

test: $(READY)
	$(BIN)/python -m pytest $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

parity: $(READY)
	$(BIN)/python -m pytest -m parity -rs tests/parity

# World, masks from words, SFT, cold start and scores from nothing, in about a quarter of an hour.
pipeline: $(READY)
	$(BIN)/videoseg train pipeline configs/tiny-quick.yaml

# make bench            all benchmarks
# make bench B=cache    one of them
bench: $(READY)
	set -e; for file in $(if $(B),benchmarks/$(B).py,$(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py))); do \
	  $(BIN)/python $$file; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
