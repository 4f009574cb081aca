# make demo: set up and run the main job.  make test: set up and pass the tests.  Needs Python 3.11+ and package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKED := --require-hashes --only-binary :all:
PIP = $(BIN)/pip install --quiet --disable-pip-version-check $(CHECKED)

# Where the environment forbids bytecode, each of a sweep's processes would compile its imports for seconds.
export PYTHONDONTWRITEBYTECODE =

.PHONY: setup demo test lint bench lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {v[0]}.{v[1]} found: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# uv installs the lock in a tenth of pip's time; where it can't be had, pip does. Both check every file's hash, uv's own too.
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock | $(PIP) -r /dev/stdin \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python $(CHECKED) -r requirements.lock \
	  || $(PIP) -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
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

# Pin what pyproject.toml asks for, keeping what is pinned already: `make lock UPGRADE=--upgrade`, then `make test lint`. Hashes are those
# of every file that the registry has of a version, so that any platform's is known and a mirror's copy passes if it is the same file.
COMPILE = $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock: setup
	$(COMPILE) pyproject.toml --all-extras -o requirements.lock
	for name in cluster/image cluster/gcp cluster/azure .ci/tools; do $(COMPILE) $$name.in -c requirements.lock -o $$name.lock || exit 1; done

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
