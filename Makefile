# One command per task, the same locally and in CI. `make demo` and `make test` only need Python 3.11+ and make.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := worker,postgres,parquet,demo,dev

.PHONY: venv demo test servers check format docs

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "adapeff needs Python 3.11 or newer; choose one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
	    $(PYTHON) -m venv --clear $(VENV); \
	  else echo "Python's venv module is missing; run: sudo apt-get install python3-venv" >&2; exit 1; fi; }
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS) --editable '.[$(EXTRAS)]'
	@touch $@

# The demo sweep, without servers or hub. Running it again reuses every finished job.
demo: venv
	ADAPEFF_STATE_DIR=.adapeff $(BIN)/adapeff run demo --plot adapeff-demo.png

# Servers for the tests, which start their own on free ports and never touch running ones; a browser for those of the page.
servers:
	@missing=""; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v chromedriver >/dev/null || missing="$$missing chromium chromium-driver"; \
	{ command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; } >/dev/null 2>&1 || missing="$$missing postgresql"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "the tests need servers that are not installed; run: sudo apt-get install$$missing" >&2; exit 1; fi; \
	fi

test: venv servers
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site: build/site/index.html. A broken link fails the build.
docs: $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

$(VENV)/.docs-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS) --editable '.[docs]'
	@touch $@

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
