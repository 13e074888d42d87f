# The commands of the project; `make` alone lists them. Each builds what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

DEVICE ?=#  cpu or cuda; empty: by whether nvidia-smi lists a GPU
CONFIG ?=#  overrides of the study, e.g. CONFIG="methods=id,od seeds=0,1 steps=20"
ARGS ?=#    more arguments, e.g. make test ARGS="-k bounds"
IN_VENV := PATH="$(CURDIR)/.venv/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/.venv"
IN_TWO := --numprocesses 2 --dist loadscope --no-loadscope-reorder

.PHONY: help install reproduce test test-all bench bench-methods bench-harnesses docs peers ui plan doctor lock lint clean

help:  ## List the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## Build .venv from the pinned lock of this machine (DEVICE=cpu|cuda overrides).
	@for python in python3.11 python3.12 python3; do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then \
	    exec "$$python" requirements/install.py $(DEVICE); \
	  fi; \
	done; \
	echo "install: no Python 3.11 or 3.12 with venv found (python3.11, python3.12, python3 were tried); install one, e.g. the package python3.11-venv" >&2; \
	exit 1

reproduce: install  ## Print the plan, then run the whole study (CONFIG="methods=id,od steps=20" changes it).
	@$(IN_VENV) dynclip reproduce $(CONFIG)

test: install  ## Run the tests that are not slow, in two processes (ARGS="-k bounds" for some of them, ARGS="-n 0" in one process).
	@$(IN_VENV) pytest $(IN_TWO) -m "not slow" $(ARGS)

test-all: install  ## Run every test: also those of verl, in an environment of its own, rehearsals and big simulations.
	@$(IN_VENV) pytest $(IN_TWO) $(ARGS)

bench: install  ## Run every benchmark of bench/ that needs no hub (ARGS="1 1": one round of one step).
	@for file in $(filter-out bench/agreement%.py bench/evaluation.py bench/evaluation_busy.py,$(sort $(wildcard bench/*.py))); do echo "$$file"; $(IN_VENV) python "$$file" $(ARGS); done

bench-methods: install  ## Time and measure every method's loss against GRPO's (ARGS=--write: into docs/cost.md).
	@$(IN_VENV) python bench/method_losses.py $(ARGS)

bench-harnesses: install  ## Compare `dynclip evaluate` with lm-evaluation-harness and EvalScope (needs the hub's GSM8K and SmolLM2).
	@$(IN_VENV) python bench/evaluation.py $(ARGS)

docs: install  ## Write docs/methods.md and its figures anew from the registry (ARGS=--check: say whether they are).
	@$(IN_VENV) python -m docs.generate.methods_page $(ARGS)

peers: install  ## Build .venv-verl, the environment of the verl comparison, and run tests/peers.
	@$(IN_VENV) pytest tests/peers $(ARGS)

ui: install  ## Open MLflow's interface on the study's runs, at port 5000 of this machine.
	@$(IN_VENV) dynclip ui $(ARGS)

plan: install  ## Say what would run here: scale and why, runs, minutes, disk.
	@$(IN_VENV) dynclip plan $(foreach item,$(CONFIG),--$(item))

doctor: install  ## Say what was installed and why, and what this machine has.
	@$(IN_VENV) dynclip doctor

lock: install  ## Resolve requirements/*.in anew into the locks and environment.yml (ARGS=--upgrade for newer versions).
	@$(IN_VENV) python requirements/compile.py $(ARGS)

lint: install  ## Check style and formatting of Python and of the workflow.
	@$(IN_VENV) ruff check .
	@$(IN_VENV) ruff format --check .
	@$(IN_VENV) snakefmt --check Snakefile workflow
	@$(IN_VENV) snakemake --lint

clean:  ## Remove the environments and caches; results stay.
	@rm -rf .venv .venv-verl .venv-harnesses .venv-graders .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
