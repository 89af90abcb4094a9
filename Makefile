# Two commands do everything on a machine with Python 3.11 or newer and make: `make run` and `make test`.

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto

.PHONY: run test check format lint types imports services tests bench lock clean

## run: the embedded sidecar on http://127.0.0.1:8770; no other server needed. ARGS="--port 9000" is passed on.
run: $(VENV)/.run
	$(BIN)/sidecar serve $(ARGS)

## test: all that CI runs: format, lint, types, import contracts, every test. Ends with pytest's summary.
test: $(VENV)/.test lint types imports services
	@# What failed is run once more, alone: real servers and kills share two cores here. What is broken fails again.
	$(BIN)/pytest -n $(WORKERS) --dist worksteal || $(BIN)/pytest --last-failed --last-failed-no-failures none -n 0

## check: the quick part, about a minute: lint, types, import contracts, tests that need no running sidecar.
check: $(VENV)/.test lint types imports services
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -q tests/unit tests/contracts

tests: $(VENV)/.test services
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

imports: $(VENV)/.test
	$(BIN)/lint-imports

## services: installs the servers that the tests start, where it may (root on Debian); elsewhere says what is missing.
services: $(VENV)/.test
	$(BIN)/python -m tests.services.install

## format: lays the code out and mends what the linter can mend.
format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## bench: the measurements, side by side with a bare loop; ARGS=--quick for a minute's worth.
bench: $(VENV)/.test
	$(BIN)/python -m bench $(ARGS)

## lock: pins again what CI and `make run` install, within the ranges of pyproject.toml. Needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" --group dev pyproject.toml -o requirements-dev.lock
	echo hatchling | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" --constraint requirements-dev.lock - -o requirements-build.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 is needed, and none is on PATH; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.test: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run
