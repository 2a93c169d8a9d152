# The verbs of this project. Everything they need is installed into .venv from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup check test test-long fix demo bench lock

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## create .venv and install everything, pinned and hash-checked

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Bursar needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

check: $(STAMP) ## format, lint, types, room contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache

test: $(STAMP) ## every test but the long ones
	$(BIN)/python -m pytest

test-long: $(STAMP) ## the long tests: kill -9, soak, ten million rows
	$(BIN)/python -m pytest -m long -n 0

fix: $(STAMP) ## format and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: $(STAMP) ## three simulated agents through the real gateway, then the console (without a terminal: once); no key needed
	@if [ -t 1 ]; then $(BIN)/bursar demo; else $(BIN)/bursar demo --once; fi

bench: $(STAMP) ## overhead beside a bare proxy, as ratios, in one run (PEERS=1 adds other tools)
	$(BIN)/python -m bench $(if $(PEERS),--peers)

lock: $(STAMP) ## resolve requirements.lock again (for maintainers)
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-strip-extras --all-extras --group dev --output-file requirements.lock pyproject.toml
