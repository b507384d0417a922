# `make` sets everything up and runs the demo; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN = $(VENV)/bin
DEMO = build/demo
TESTS = tests $(wildcard plugins/*/tests)
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

# Python keeps compiled files, also where the environment asks it not to: otherwise each process of a test compiles
# PyTorch and flctl anew, which takes most of its CPU time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := all
.PHONY: all setup demo test test-slow lint format docs bench clean distclean help

all: demo ## set up, then run the demo (the default)

setup: ## make or complete the environment (VENV=.venv, PYTHON=python3)
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed: flctl needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV)

demo: setup ## partition, train and evaluate handwritten digits, in build/demo
	@rm -rf $(DEMO)
	@$(BIN)/flctl demo --out $(DEMO)
	@echo "flctl is in $(BIN): say \`. $(BIN)/activate\`, then \`flctl --help\`."

test: setup ## the quick tests
	$(PYTEST) -m "not slow"

test-slow: setup ## the slow tests; CI runs both
	$(PYTEST) -m slow

lint: setup ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy scripts
	$(BIN)/mypy benchmarks --exclude /peers/
	$(BIN)/mypy plugins/flctl-dp/src plugins/flctl-secagg/src

format: setup ## put the code into the format that lint asks for
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## build the documentation into site/
	$(BIN)/mkdocs build --strict

bench: setup ## the quick form of every benchmark
	@$(BIN)/python scripts/bench.py

clean: ## remove what the build, tests and demo wrote
	rm -rf build dist site htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find flctl tests scripts benchmarks plugins -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## and the environment
	rm -rf $(VENV)

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 18
