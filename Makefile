# make repro: environment, pipeline, what to open.   make test: environment, tests.   VENV=path reuses an environment.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# `venv/bin/dvc` alone would not find the `python` that the stages call.
export PATH := $(abspath $(BIN)):$(PATH)
.PHONY: repro test lint install clean

install: $(BIN)/.know-installed

$(BIN)/.know-installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; assert sys.version_info >= (3, 11), "know needs Python 3.11 or newer, this is " + sys.version; '
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

repro: install
ifdef PROFILE
	cmp -s profiles/$(PROFILE).yaml params.yaml || git diff --quiet HEAD -- params.yaml || \
	  { echo "params.yaml has changes that profile $(PROFILE) would overwrite: commit or stash them" >&2; exit 1; }
	cp profiles/$(PROFILE).yaml params.yaml
endif
	dvc repro
	@echo
	@echo "Done. Open reports/index.html: every notebook, figure and table."

test: install
	python -m pytest

lint: install
	ruff check .
	ruff format --check .
	mypy

clean:
	rm -rf build logs
