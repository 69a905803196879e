# `make demo` and `make test` need Python 3.11-3.13, git and a package index; they make their own .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# e.g. make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu where the plain index would bring CUDA
TORCH_INDEX ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-all check lint types tiers clean help

help:
	@echo "make demo      from a film to a registered model, 6 to 20 minutes on two cores"
	@echo "make test      the quick tests"
	@echo "make test-all  the quick and the slow tests"
	@echo "make check     ruff, mypy --strict, import tiers, project lints"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install -q --index-url $(TORCH_INDEX) -c constraints.txt torch)
	$(BIN)/pip install -q -c constraints.txt -e '.[all,dev]'
	touch $@

demo: $(READY)
	$(BIN)/sana-video demo

test: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'slow or not slow' --timeout 1200

check: $(READY) lint types tiers

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/contracts/lint_project.py

types: $(READY)
	$(BIN)/mypy

tiers: $(READY)
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
