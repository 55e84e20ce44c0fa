# Fairpress: one target a paper. `make help` says what there is.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PAPERS := $(patsubst papers/%/paper.toml,%,$(wildcard papers/*/paper.toml))

SCALE ?= demo
OPTIONS = --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ARMS),--arms "$(ARMS)") $(if $(DATA),--data $(DATA)) $(if $(JOBS),--jobs $(JOBS)) \
          $(if $(THREADS),--threads $(THREADS)) $(if $(DEVICES),--devices $(DEVICES)) $(if $(NODES),--nodes $(NODES)) \
          $(if $(WANDB),--wandb $(WANDB)) $(if $(STORE),--store $(STORE)) $(if $(LAUNCH),--launch $(LAUNCH)) \
          $(if $(STALE),--stale $(STALE)) $(if $(CHECKPOINT),--checkpoint-every $(CHECKPOINT)) \
          $(if $(PARTITION),--partition $(PARTITION)) $(if $(ACCOUNT),--account $(ACCOUNT)) $(if $(TIME),--time $(TIME)) \
          $(foreach setting,$(SLURM),--slurm $(setting))

.DEFAULT_GOAL := help
.PHONY: help list doctor setup test lint types fuzz redraw fairness data clean $(PAPERS)

help: ## this text
	@echo "make <paper> [SCALE=smoke|demo|real|lab|paper] [SEEDS=0,1,2] [DATA=/path] [JOBS=2] [THREADS=1] [DEVICES=1]"
	@echo "             [NODES=1] [WANDB=offline|online|disabled] [STORE=/path] [LAUNCH=local|slurm]"
	@echo "             [STALE=renew|keep] [CHECKPOINT=30] [ARMS=\"dense snip_9*\"]"
	@echo "  ARMS: names or patterns of the rows to run now; of the others the table shows what is finished."
	@echo "  JOBS runs at a time with THREADS threads each; THREADS=auto shares the cores out, but the last bits of a number"
	@echo "  depend on it. STALE=keep shows results of code that has changed since, marked, instead of computing them again."
	@echo "  CHECKPOINT: seconds between checkpoints, the most that a kill costs."
	@echo "  LAUNCH=slurm submits the runs as jobs: [PARTITION=name] [ACCOUNT=name] [TIME=minutes] [SLURM=\"qos=high mem=16G\"]"
	@echo
	@grep -hE '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  papers:         $(PAPERS)"

list: ## papers: family, basis, scales run, verdicts
	@$(PYTHON) -m papers list

doctor: ## what is wrong here and what to do: versions, devices, disk, data (DATA=/path), wandb, SLURM, stale and damaged results
	@$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m papers doctor $(if $(DATA),--data $(DATA)) $(if $(STORE),--store $(STORE))

setup: $(VENV)/.ready ## make .venv and install the pinned dependencies (done by itself when needed)

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Fairpress needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}: call make PYTHON=/path/to/python3.11")'
	@echo "setting up .venv (once; some minutes, about 5 GB with PyTorch's CUDA libraries)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[deploy,dev]'
	@touch $@

$(PAPERS): $(VENV)/.ready
	@$(PY) -m papers $@ $(OPTIONS)

redraw: $(VENV)/.ready ## draw every committed table, plot and verdict again from results/, without training
	@$(PY) -m papers redraw

fairness: $(VENV)/.ready ## does compression hurt the already disadvantaged? one table and figure from results/, without training
	@$(PY) -m papers fairness

data: ## data sets: what they are, their terms, how to get them, whether they are there (DATA=/path)
	@$(PYTHON) -m datasets $(if $(DATA),--root $(DATA))

lint: $(VENV)/.ready ## ruff
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

types: $(VENV)/.ready ## mypy
	@$(VENV)/bin/mypy

test: lint types ## the whole test suite
	@OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadfile -m "not speed"
	@OMP_NUM_THREADS=1 $(VENV)/bin/pytest -m speed

fuzz: $(VENV)/.ready ## altered files for every parser; PARSER= one of them, INPUTS= how many
	@OMP_NUM_THREADS=1 $(PY) tests/fuzz/fuzz.py --inputs $(or $(INPUTS),100000) $(if $(PARSER),--parser $(PARSER))

clean: ## remove caches; results and the store of runs stay
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Anything else is taken for a paper, so that a typo is answered with the nearest name.
.DEFAULT:
	@$(PYTHON) -m papers $@ $(OPTIONS)
