PYTHON ?= python3
MODEL ?= demo
OUT ?= outputs/$(notdir $(MODEL))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup run test bench lint

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,hub,generate,parquet,dev]'
	touch $(READY)

run: setup
	$(BIN)/strataprobe run sentiment --model $(MODEL) --out $(OUT)

test: setup
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench.capture --texts-slow 16 --texts-batched 32
	$(BIN)/python -m bench.capture.memory
	$(BIN)/python -m bench.capture.start
	$(BIN)/python -m bench.train
	$(BIN)/python -m bench.train.norms
	$(BIN)/python -m bench.train.job
	$(BIN)/python -m bench.train.large
	$(BIN)/python -m bench.coverage
	$(BIN)/python -m bench.joint
	$(BIN)/python -m bench.ensembles
	$(BIN)/python -m bench.adapt

lint: setup
	$(BIN)/ruff check src tests examples bench
	$(BIN)/ruff format --check src tests examples bench
	$(BIN)/mypy
