# make demo: set up and run the main job.  make test: set up and pass the tests.  Needs Python 3.11+ and package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint bench lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {v[0]}.{v[1]} found: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# uv installs the lock in a tenth of pip's time; where it can't be had, pip does.
	$(BIN)/pip install --quiet --disable-pip-version-check uv \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock \
	  || $(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: setup
	$(BIN)/laresa demo

test: setup
	$(BIN)/python -m pytest -m "not alone" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m alone

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m tests.bench

# Pin what is installed now: run in an environment that passes `make test lint`.
lock: setup
	$(BIN)/pip freeze --exclude-editable | grep -v -i '^laresa' | sed -E 's/^((nvidia|cuda|triton)[^ ]*)$$/\1 ; sys_platform == "linux" and platform_machine == "x86_64"/' > requirements.lock

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
