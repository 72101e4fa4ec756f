# Every target creates the environment .venv, or updates it, before it runs. This needs Python 3.10 to
# 3.12, git and make. To use another Python: make PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Written last, so that an interrupted installation is continued.
INSTALLED := $(VENV)/.installed
# Scripts in an environment contain its absolute path: after the folder was moved, create it again.
PLACE := $(VENV)/.place

ifneq ($(shell cat $(PLACE) 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint format wheel clean

# One worker more than processors, since many tests wait for servers; more than 4 only compete for memory.
PARALLEL := -n $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))') --dist worksteal

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile

setup: $(INSTALLED) ## install everything for development into .venv

demo: $(INSTALLED) ## export the trained network, serve it, and classify photographs
	@$(BIN)/delugeserve quickstart

test: $(INSTALLED) ## run all tests; ARGS passes options to pytest: make test ARGS="-k parquet -n 0"
	@$(BIN)/pytest $(PARALLEL) $(ARGS)

test-fast: $(INSTALLED) ## run the tests that take no server, no data and no training: under a minute
	@$(BIN)/pytest $(PARALLEL) -m "not slow and not system and not data" $(ARGS)

lint: $(INSTALLED) ## check style, formatting, types and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## fix style and formatting
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

wheel: $(INSTALLED) ## build the wheel into dist/, install it into an empty environment and try it
	@.ci/wheel $(BIN)/python dist

clean: ## remove .venv, caches and built wheels; runs and exported models stay
	@rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@if [ "$$(cat $(PLACE) 2>/dev/null)" != "$$PWD" ] || ! $(BIN)/python -c "" 2>/dev/null; then \
	  $(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 13) or sys.exit( \
	    "This needs Python 3.10, 3.11 or 3.12, and $(PYTHON) is %d.%d. Choose another one:" \
	    " make PYTHON=python3.11" % sys.version_info[:2])' && \
	  echo "Creating the environment $(VENV) with $$($(PYTHON) --version)" && \
	  $(PYTHON) -m venv --clear $(VENV) && pwd > $(PLACE); \
	fi
	@echo "Installing into $(VENV). The first time takes a minute or more, most of it for PyTorch."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED)
	@echo "Installed: $$(du -sh $(VENV) | cut -f1) in $(VENV)"
