# Everything between `git clone` and the results. `make help` lists the targets; nothing needs to be activated.

VENV   := .venv
BIN    := $(VENV)/bin
ALPRO  := $(BIN)/python -m alpro
SETUP  := sh tools/setup.sh
PYTEST := $(BIN)/python -m pytest

# Quiet and offline: none of the tools underneath reports home or looks for updates.
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Which Python makes the environment: `make PYTHON=/path/to/python3.12 setup`; empty: the first that fits (tools/python.sh).
PYTHON ?=
export PYTHON
# Other ports of `make ui` than 4200 and 5000.
PREFECT_PORT ?=
MLFLOW_PORT ?=
export PREFECT_PORT MLFLOW_PORT
# What `make repro` does with files that somebody put into a stage's output: keep (aside) or discard; empty: stop and name them.
EDITED ?=
export EDITED
# With which recipe `make replicate` evaluates.
RECIPE ?= official

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help:  ## List the targets
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup:  ## Make .venv: locked packages, this project, Horovod (built once); nothing if it is up to date
	@$(SETUP)

.PHONY: repro
repro:  ## The whole pipeline: data, training, evaluation, report; goes on where it was interrupted
	@$(SETUP)
	@$(BIN)/python -E -S tools/under_lock.py repro $(MAKE) --no-print-directory pipeline

.PHONY: pipeline
pipeline:
	@$(BIN)/python -E -S tools/clear_dvc_lock.py
	@$(ALPRO) preflight
	@$(BIN)/python -m flows.stray_files
	@$(BIN)/dvc repro
	@rm -f .make/unfinished
	@$(ALPRO) track sync
	@$(ALPRO) report show

.PHONY: test
test: setup  ## The tests, without the slow ones
	@$(PYTEST) -q

.PHONY: test-all
test-all: setup  ## All tests; on a GPU those that need one too
	@$(PYTEST) -q -m ''

.PHONY: lint
lint: setup  ## Style (ruff) and types (mypy)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: format
format: setup  ## Put the code into the project's style
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

.PHONY: doctor
doctor: setup  ## Say what works on this machine
	@$(ALPRO) doctor

.PHONY: ui
ui: setup  ## Prefect and MLflow with their pages and a worker, on this machine (PREFECT_PORT=4201, MLFLOW_PORT=5001)
	@$(BIN)/python -m flows.ui

.PHONY: replicate
replicate: setup  ## Evaluate every checkpoint of the paper's tables that is present, and fill the README's table (RECIPE=paper for the other recipe)
	@$(ALPRO) replicate --recipe $(RECIPE)

.PHONY: baseline
baseline: setup  ## Compare pre-training with training from scratch over three seeds, for the report (an hour)
	@$(BIN)/python -E -S tools/under_lock.py repro $(BIN)/python -m benchmarks.baseline

.PHONY: bench
bench: setup  ## Measure speed and memory; each benchmark prints a table, and JSON on its last line
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)"; done

.PHONY: lock
lock: setup  ## Write requirements.lock anew from pyproject.toml; UPGRADE=1 takes the newest versions
	@$(BIN)/python tools/lock_requirements.py $(if $(UPGRADE),--upgrade)

.PHONY: horovod
horovod:  ## Build Horovod for this torch on CPUs (Gloo), and keep to it
	@$(SETUP) --horovod cpu

.PHONY: horovod-gpu
horovod-gpu:  ## Build Horovod with NCCL, and keep to it (not proven: no machine with a GPU has tried it)
	@$(SETUP) --horovod nccl

.PHONY: clean
clean:  ## Remove .venv and what tools cached here; results, data and Horovod's kept wheel stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
	@find alpro flows tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
