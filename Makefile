# Every target sets up what it needs: Python 3.11+ and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready

# Wherever bytecode is not to be written, each of the many processes of the tests compiles it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo quick test coverage check lint types bench dist clean

setup: $(READY)

demo: $(READY)
	$(BIN)/python -m examples.demo

# The pure layers: what is planned, parsed, decoded, transformed. No server, no other process.
QUICK := tests/ranges tests/streams tests/format tests/planning tests/codecs tests/wcs

quick: $(READY)
	$(BIN)/pytest --numprocesses auto --dist worksteal -m 'not slow' $(QUICK)

PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(BIN)/pytest $(PARALLEL)

# Before Python 3.14 this takes half as long again, so the tests run without it.
coverage: $(READY)
	$(BIN)/pytest $(PARALLEL) --cov --cov-report term

check: lint types test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench: $(BENCH_READY)
	$(BIN)/python -m benchmarks

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build

# pip knows groups of dependencies from 25.1 on. The kernels are compiled once, here: each process of
# the tests would do it, at the same time.
KERNELS := from typing import get_args; from dask_fits.codecs import registry; \
	from dask_fits.resampling import kernels; kernels.sampling(); kernels.combining(); \
	[registry.decoder(name) for name in get_args(registry.DecoderName)]

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable '.[all]' --group dev
	$(BIN)/python -c '$(KERNELS)'
	touch $@

$(BENCH_READY): $(READY)
	$(BIN)/pip install --quiet --group bench
	touch $@

clean:
	rm -rf $(VENV) demo-output dist
