# The same commands that CI and the README use. Each works alone: the environment is made when it is missing or stale.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# more words for pytest, such as PYTEST='-m "not slow"'
PYTEST ?=
# extras to install: the tests of a Ray cluster run with EXTRAS=dev,ray
EXTRAS ?= dev
# LOWEST=1 installs the lowest version of every package that pyproject.toml allows
LOWEST ?=

.PHONY: demo test lint bench docs wheel clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(LOWEST),$(BIN)/python tools/lowest_versions.py > $(VENV)/lowest.txt)
	$(BIN)/python -m pip install --quiet $(if $(LOWEST),--constraint $(VENV)/lowest.txt) --editable '.[$(EXTRAS)]'
	touch $(READY)

demo: $(READY)
	$(BIN)/medlsam demo --out out/demo

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m bench

docs: $(READY)
	$(BIN)/python -m sphinx -c docs -W --keep-going -q . out/site
	@echo "out/site/index.html"

wheel: $(READY)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) .venv-* build dist out
