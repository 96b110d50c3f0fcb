# make repro: environment, pipeline, what to open.   make test: environment, tests.   VENV=path reuses an environment.
# make test-long: every profile for a GPU, shrunk, from end to end; make test does one of each kind of task.
# make PROFILE=name repro: another experiment, profiles/name.yaml; with SHRINK=1, a minute of it.
# make lock: requirements.lock anew.
# make bench: the scores of docs/bench.md, on trajectories made anew only if params.yaml defines others.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# `venv/bin/dvc` alone would not find the `python` that the stages call.
export PATH := $(abspath $(BIN)):$(PATH)
# A module is compiled where it is first imported, not by the installation and not by each of a pipeline's processes anew, which would
# take longer than most of what they do.
export PYTHONDONTWRITEBYTECODE :=
.PHONY: repro bench test test-long lint install lock lowest clean

install: $(BIN)/.know-installed

$(BIN)/.know-installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; assert sys.version_info >= (3, 11), "know needs Python 3.11 or newer, this is " + sys.version; '
	$(BIN)/python -m pip install --quiet --no-compile --constraint requirements.lock --editable '.[dev]'
	touch $@

repro: install
ifdef PROFILE
	python scripts/use_profile.py $(PROFILE) $(if $(SHRINK),--shrink)
endif
	dvc repro
	@python -m know.report.pages
	@echo
	@echo "Done. Open reports/index.html: every notebook, figure and table."

bench: install
	dvc repro bench/dvc.yaml
	python scripts/update_readme.py

# A worker a core, each with whole test files: fixtures are made once, and two tests of a file do not meet. They come in
# the order of tests/conftest.py.
test: install
	python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-long: install
	python -m pytest -m "long or profile"

lint: install
	ruff check .
	ruff format --check .
	lint-imports
	mypy

lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --editable '.[dev]'
	{ grep '^#' requirements.lock; build/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

# Whether the lower bounds of a plain install hold: its tests at the lowest versions that pyproject.toml allows.
lowest:
	rm -rf build/lowest && $(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet uv
	build/lowest/bin/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct \
	  --requirements pyproject.toml 'pytest>=8' 'hypothesis>=6.100'
	build/lowest/bin/python -m pytest tests/test_cli_tool.py tests/test_hypermodel.py tests/test_checkpoints.py

clean:
	rm -rf build logs data/runs
