# Each target sets up what it needs, from a bare clone on a machine with Python 3.11 and make.

PYTHON ?= python3.11
VENV ?= .venv
# Processes that run the tests, with one thread each.
WORKERS ?= 2
# Further arguments of pip, for example PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu" for a
# smaller torch without CUDA.
PIP_OPTIONS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := modeling_d2v recipes tests benchmarks setup.py
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-gpu test-upstream quality style clean

help:
	@echo "make demo           train on the built-in data on a CPU and show what was learned"
	@echo "make test           run the tests that need neither time, network, accelerator, browser nor shared data"
	@echo "make test-all       run these, the slow tests and those that need the shared data folder or Chromium"
	@echo "make test-gpu       run the tests that need an accelerator"
	@echo "make test-upstream  run transformers' own common tests on these models (downloads them once)"
	@echo "make quality        check format and lint"
	@echo "make style          repair format and lint"
	@echo "make clean          remove the virtual environment, caches and builds"

install: $(STAMP)

# torch goes first and alone: its exact release then decides the build, which nothing installed later replaces.
$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) "$$(grep '^torch==' constraints.txt)" --constraint constraints.txt
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) --editable ".[train,lora,onnx,dev]" --constraint constraints.txt
	touch $@

demo: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python recipes/demo.py

test: $(STAMP)
	$(PYTEST) -n $(WORKERS) -m "not slow and not gpu and not shared and not browser"

test-all: $(STAMP)
	$(PYTEST) -n $(WORKERS) -m "not gpu"

test-gpu: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m gpu

# ARGS divides it, for example ARGS="-k vision_V2".
test-upstream: $(STAMP)
	$(BIN)/python tests/upstream/distribution.py
	$(PYTEST) -c tests/upstream/pytest.ini -q --tb=short tests/upstream $(ARGS)

quality: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

style: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
