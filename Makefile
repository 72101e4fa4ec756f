# Everything runs from one environment in .venv, which each target makes or brings up to date by
# itself. What must be there: Python 3.10 to 3.12, git and make. Another Python: make PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Written last, so that an interrupted installation goes on where it was.
INSTALLED := $(VENV)/.installed
# Programs in an environment hold its absolute path: where the folder was moved, it is made anew.
PLACE := $(VENV)/.place

ifneq ($(shell cat $(PLACE) 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

setup: $(INSTALLED) ## install everything for development into .venv

demo: $(INSTALLED) ## export the trained network, serve it, and classify photographs
	@$(BIN)/delugeserve quickstart

test: $(INSTALLED) ## run the tests; make test ARGS="-k parquet" passes options to pytest
	@$(BIN)/pytest $(ARGS)

lint: $(INSTALLED) ## check style, formatting, types and the directions of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## mend style and formatting
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

clean: ## remove .venv, caches and built distributions; runs and exported models stay
	@rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@if [ "$$(cat $(PLACE) 2>/dev/null)" != "$$PWD" ] || ! $(BIN)/python -c "" 2>/dev/null; then \
	  $(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 13) or sys.exit( \
	    "This needs Python 3.10, 3.11 or 3.12, and $(PYTHON) is %d.%d. Name another one:" \
	    " make PYTHON=python3.11" % sys.version_info[:2])' && \
	  echo "Making the environment $(VENV) with $$($(PYTHON) --version)" && \
	  $(PYTHON) -m venv --clear $(VENV) && pwd > $(PLACE); \
	fi
	@echo "Installing into $(VENV): a minute or more the first time, most of it PyTorch"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED)
	@echo "Installed: $$(du -sh $(VENV) | cut -f1) in $(VENV)"
