# Everything runs in .venv, which is made when it is missing and touched again only when
# the project's metadata or the pins change. Needs python3 >= 3.11; nothing else.
#
#   make demo [VIDEO=path] [SEED=n] [OUT=picture.png]    make test    make lint
#   make compile    make wheel-test    make clean

PYTHON ?= python3
VIDEO ?=
# of the video that the demo draws where none is named
SEED ?= 0
OUT ?= hico_demo.png
# more workers on a larger machine: make test WORKERS=8
WORKERS ?= 2

VENV ?= .venv
BIN := $(VENV)/bin
PINS := constraints/ci.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -qq -c $(PINS)
METADATA := pyproject.toml setup.py hico/_version.py $(PINS)
BUSY := $(VENV)/.busy

.PHONY: help demo test lint compile wheel-test clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

# $(BUSY) lies in the folder while an install runs. Found at the start, it means that one was cut
# short: then begin again from nothing. torch goes first and pinned, so that no later package
# chooses another one.
$(VENV)/.run: $(METADATA) $(wildcard $(BUSY))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hico needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>&1):" \
	    "name another with make PYTHON=..."; exit 1; }
	@if [ -e $(BUSY) ]; then rm -rf $(VENV); fi
	@if [ -d $(VENV) ] && [ ! -e $@ ]; then \
	  echo "$(VENV) is not make's own: move it away, or name another folder with make VENV=..."; \
	  exit 1; fi
	@mkdir -p $(VENV) && touch $(BUSY)
	@if [ ! -e $@ ]; then $(PYTHON) -m venv $(VENV); fi
	@echo "installing into $(VENV) (a minute or two the first time)"
	@$(INSTALL) setuptools torch
	@$(INSTALL) --no-build-isolation -e '.[plot]'
	@touch $@ && rm -f $(BUSY)

$(VENV)/.dev: $(VENV)/.run
	@touch $(BUSY)
	@echo "installing the tools for tests and checks"
	@$(INSTALL) --no-build-isolation -e '.[plot,test,dev]'
	@touch $@ && rm -f $(BUSY)

demo: $(VENV)/.run
	@$(BIN)/hico demo $(if $(VIDEO),"$(VIDEO)") --seed $(SEED) -o "$(OUT)"

# Twice: the kernels in Triton's interpreter, then the plain PyTorch that CPU users run.
# One thread a worker: more only compete for the same cores.
test: $(VENV)/.dev
	@echo "tests, kernels in the interpreter"
	@TRITON_INTERPRET=1 OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -q -n $(WORKERS) --ignore=tests/test_packaging.py \
	  --ignore=tests/training --ignore=tests/model/test_shipped.py
	@echo "tests, plain PyTorch"
	@env -u TRITON_INTERPRET OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python tools/typecheck.py

# GPU code for every kernel, built without a GPU
compile: $(VENV)/.dev
	@$(BIN)/python tools/compile_kernels.py

# sdist -> wheel -> an empty environment
wheel-test: $(VENV)/.dev
	@$(BIN)/python tools/check_wheel.py

clean:
	rm -rf $(VENV) build dist hico.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
