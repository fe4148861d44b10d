# make demo: the whole job on a shipped network and shipped images. make test: all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/spatialonnx demo

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The op library is compiled here; its sources are what makes an install stale.
SOURCES := pyproject.toml constraints.txt $(wildcard custom_ops/CMakeLists.txt custom_ops/cmake/* custom_ops/src/*/*)

$(VENV)/.demo: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[report]'
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,report,test]'
	touch $@

clean:
	rm -rf $(VENV) build dist spatialonnx-demo
