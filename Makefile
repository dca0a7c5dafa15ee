# Everything runs in .venv, which the first target makes: Python 3.10 or newer, git and make are
# enough.
#
#   make test PYTHON=python3.12      another Python for .venv
#   make test PIP_TORCH_ARGS='--index-url https://download.pytorch.org/whl/cpu'
#                                    another build of PyTorch than the platform's default
#   make bench BENCH='--prompts 8 --steps 28 --cfg 3 --shift 1'
#                                    one condition, in minutes

PYTHON ?= python3
PIP_TORCH_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1 - /p' $(MAKEFILE_LIST)

demo: .venv/.installed  ## sample emoji with and without MagCache and compare them
	$(BIN)/magcache demo

test: .venv/.installed  ## run the tests, one process a core
	$(BIN)/python -m pytest -q -n auto --dist loadfile

lint: .venv/.installed  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff check --quiet --preview --select PLW1514  # text files name their encoding
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: .venv/.installed  ## measure quality at equal cost (hours, goes on where it was stopped)
	$(BIN)/python -m bench.overhead
	$(BIN)/python -m bench.quality $(BENCH)

clean:  ## remove outputs and caches; .venv stays
	rm -rf demo-output measure-output bench-output build dist .pytest_cache .ruff_cache .hypothesis
	find magcache bench tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Torch first and by itself, so that PIP_TORCH_ARGS chooses its build and nothing else's.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -c constraints.txt torch $(PIP_TORCH_ARGS)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo "Python 3.10 or newer is needed: choose one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
