# All commands from `git clone` to the results. `make help` lists them; no environment needs to be activated.

VENV   := .venv
BIN    := $(VENV)/bin
ALPRO  := $(BIN)/python -m alpro
SETUP  := sh tools/setup.sh
# Files of tests in one worker more than there are cores (tests/conftest.py), and at most four: a full-size test needs 2 GB.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# No telemetry and no checks for updates in any of the tools.
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Python that makes the environment: `make PYTHON=/path/to/python3.12 setup`; empty: the first suitable one (tools/python.sh).
PYTHON ?=
export PYTHON
# Ports of `make ui` and `make team`; empty: 4200 and 5000, and for `make team` 5433 and 8333 to 8340.
PREFECT_PORT ?=
MLFLOW_PORT ?=
POSTGRES_PORT ?=
S3_PORT ?=
export PREFECT_PORT MLFLOW_PORT POSTGRES_PORT S3_PORT
# Folder of `make team-backup` (empty: a new one in .team/backups) and `make team-restore`.
BACKUP ?=
# Files that a user put into a stage's output: keep (move them to .state/kept) or discard; empty: `make repro` stops and lists them.
EDITED ?=
export EDITED
# Folder and port of `make app`.
VIDEOS ?= data/sample
APP_PORT ?= 7860
# Image of `make image`: run or serve; cpu or gpu; options of the engine's build; an index with CPU builds of torch.
TARGET ?= run
BASE ?= cpu
IMAGE_OPTIONS ?=
TORCH_INDEX ?=
# Not empty: `make gpu-check` uses tiny sizes on the CPU.
SMALL ?=
# Recipe of `make replicate`.
RECIPE ?= official

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help:  ## List the targets
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup:  ## Make or update .venv: locked packages, this project, Horovod (built once, unless `make horovod-none`)
	@$(SETUP)

.PHONY: repro
repro:  ## Run the whole pipeline: data, training, evaluation, report; resumes after an interruption
	@$(SETUP)
	@$(BIN)/python -E -S tools/under_lock.py repro $(BIN)/python -m flows.repro

.PHONY: test
test: setup  ## Run the tests, without the slow ones
	@$(PYTEST) -q

.PHONY: test-all
test-all: setup  ## Run all tests; those that need a GPU are skipped without one
	@$(PYTEST) -q -m ''

.PHONY: coverage
coverage: setup  ## Run the tests as `make test` does, and write which lines they reach to .coverage/html
	@mkdir -p .coverage
	@$(PYTEST) -q --cov --cov-report=term --cov-report=html

.PHONY: lint
lint: setup  ## Check style (ruff), types (mypy) and spelling (codespell)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/codespell

.PHONY: format
format: setup  ## Format the code (ruff)
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

.PHONY: doctor
doctor: setup  ## Check what works on this machine
	@$(ALPRO) doctor

.PHONY: gpu-check
gpu-check: setup  ## Check every GPU path and measure it: a table and benchmarks/gpu.json (SMALL=1: tiny sizes on the CPU)
	@$(ALPRO) check gpu $(if $(SMALL),--small)

.PHONY: ui
ui: setup  ## Start Prefect with a worker, and MLflow, with their web pages (PREFECT_PORT=4201, MLFLOW_PORT=5001)
	@$(BIN)/python -m flows.ui

.PHONY: team
team: setup  ## Start PostgreSQL, S3, MLflow and Prefect with passwords, for a team (POSTGRES_PORT=5433, S3_PORT=8333)
	@test -x $(BIN)/weed || command -v weed >/dev/null || $(BIN)/python -m uv pip install --quiet --group team
	@$(BIN)/python -m flows.team

.PHONY: team-backup
team-backup:  ## Save all state of the team servers, running or not, to a folder (BACKUP=FOLDER)
	@$(BIN)/python -m flows.team backup $(if $(BACKUP),"$(BACKUP)")

.PHONY: team-restore
team-restore:  ## Make the state of the team servers from a backup (BACKUP=FOLDER)
	@$(BIN)/python -m flows.team restore "$(BACKUP)"

.PHONY: team-migrate
team-migrate:  ## Copy the stores of this checkout (.mlflow, .prefect) to empty team servers
	@$(BIN)/python -m flows.team migrate

.PHONY: team-upgrade
team-upgrade:  ## Make a backup, then upgrade the team's databases to the installed MLflow and Prefect
	@$(BIN)/python -m flows.team upgrade

.PHONY: app
app: setup  ## Open a web page on your videos (VIDEOS=data/sample) with the models of the registry; APP_PORT=7860
	@$(ALPRO) app --videos "$(VIDEOS)" --port "$(APP_PORT)"

.PHONY: replicate
replicate: setup  ## Evaluate every available checkpoint of the paper's tables and fill the README's table (RECIPE=official or paper)
	@$(ALPRO) replicate --recipe $(RECIPE)

.PHONY: baseline
baseline: setup  ## Compare pre-training with training from scratch over three seeds, for the report (six experiments)
	@$(BIN)/python -E -S tools/under_lock.py repro $(BIN)/python -m benchmarks.baseline

.PHONY: bench
bench: setup  ## Measure speed and memory; each benchmark prints a table, then JSON on its last line
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)"; done

.PHONY: docs
docs: setup  ## Build the documentation into site/; a broken link or an orphan page fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.PHONY: docs-serve
docs-serve: setup  ## Serve the documentation on http://127.0.0.1:8000
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8000

.PHONY: lock
lock: setup  ## Write requirements.lock from pyproject.toml; UPGRADE=1 updates to the newest versions
	@$(BIN)/python tools/lock_requirements.py $(if $(UPGRADE),--upgrade)

.PHONY: horovod
horovod:  ## Build Horovod for CPUs (Gloo), now and in later setups
	@$(SETUP) --horovod cpu

.PHONY: horovod-gpu
horovod-gpu:  ## Build Horovod with NCCL, now and in later setups (not tested on a machine with a GPU)
	@$(SETUP) --horovod nccl

.PHONY: horovod-none
horovod-none:  ## Leave Horovod out, now and in later setups: one process, or launch.backend=torch in params.yaml
	@$(SETUP) --horovod none

.PHONY: image
image:  ## Build the container image with docker, podman or buildah (TARGET=serve, BASE=gpu, TORCH_INDEX=URL)
	@python3 tools/image.py build --target $(TARGET) --base $(BASE) --torch-index "$(TORCH_INDEX)" $(IMAGE_OPTIONS:%=--option=%)

.PHONY: image-test
image-test: image  ## Build the image, then run `alpro doctor`, the quick tests and recipe tiny in it
	@python3 tools/image.py test --target $(TARGET) --base $(BASE)

.PHONY: clean
clean:  ## Remove .venv and caches; results, data and Horovod's wheel stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage build *.egg-info
	@find alpro flows tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
