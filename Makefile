# `make demo` and `make test` each do all set-up alone on a fresh machine; run again, they install nothing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types setup clean

setup: $(READY)

# Remade when the requirements change. The mark is touched last, so a broken installation is taken up again.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,model,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python pipelines/demo.py --out demo

test: lint types
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf demo build dist .mypy_cache .pytest_cache .ruff_cache
