# make demo: makes a shipped network fast, on shipped images. make test: all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The package of ONNX Runtime, an extra of pyproject.toml: onnxruntime-gpu runs without a GPU as well.
RUNTIME ?= $(if $(filter x86_64,$(shell uname -m)),gpu,cpu)
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
# Kept, so that only what changed is compiled, and of this environment alone: two builds at a time
# must not share a folder. Those of pip itself have a temporary one each.
BUILD := --config-settings=build-dir=build/$(notdir $(VENV))

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/spatialonnx demo

# On all cores: no test is timed, and none shares a file with another.
test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The op library is compiled here; its sources are what makes an install stale.
SOURCES := pyproject.toml constraints.txt $(wildcard custom_ops/CMakeLists.txt custom_ops/cmake/* custom_ops/src/*/*)

$(VENV)/.demo: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) $(BUILD) --editable '.[$(RUNTIME),report]'
	$(BIN)/spatialonnx doctor --quiet
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(INSTALL) torch==2.13.0
	$(INSTALL) $(BUILD) --editable '.[$(RUNTIME),train,report,ray,test]'
	$(BIN)/spatialonnx doctor --quiet
	touch $@

clean:
	rm -rf $(VENV) build dist spatialonnx-demo
