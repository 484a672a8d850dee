# Every target sets itself up: it needs make and Python >= 3.11, nothing else.
#   make test                     make test ARGS="-k heun"
#   make bench                    make bench ARGS="--quick"
#   make mutate                   make mutate ARGS="--sample 30 quadrature"    make mutate ARGS=--hand
#   make PYTHON=python3.12 ...    another interpreter (then `make distclean` first)

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet

# Beside the promises, what needs no sampling.
FAST := exact multistep noise quadrature sde table

# One thread per test process: there are two of them, and small tensors gain nothing from more.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help test fast bench peers mutate lint format docs dev clean distclean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{ printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: $(VENV)/.with-test  ## run the tests and the examples in the docstrings
	$(ONE_THREAD) $(PY) -m pytest -n 2 $(ARGS)

fast: $(VENV)/.with-test  ## the promises and the closed forms, in under a minute
	$(ONE_THREAD) $(PY) -m pytest -n 2 -q -m "not slow" tests/promises $(FAST:%=tests/test_%.py) $(ARGS)

bench: $(VENV)/.with-bench  ## measure every solver: error against the number of network calls
	$(PY) benchmarks/run.py $(ARGS)

peers: $(VENV)/.with-bench,peers  ## the same beside diffusers, azula and torchdiffeq, with a verdict
	$(PY) benchmarks/run.py --peers --grids balanced log_snr karras uniform optimised $(ARGS)

mutate: $(VENV)/.with-mutate  ## put small faults into the core and count those that the tests find: an hour
	$(ONE_THREAD) $(PY) tests/mutation/mutate.py $(ARGS)

lint: $(VENV)/.with-lint  ## ruff (rules and format) and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.with-lint  ## rewrite the sources in the project's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(VENV)/.with-docs  ## build the documentation into site/
	$(PY) docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

dev: $(VENV)/.with-dev  ## install everything, and the pre-commit hooks
	$(PY) -m pre_commit install

clean:  ## remove what was built, keep the environment
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find scoresolve tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove the environment too
	rm -rf $(VENV)

# torch comes first and alone: its pinned version decides which build of it everything else sees.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("scoresolve needs Python >= 3.11, but $(PYTHON) is " + sys.version.split()[0] + ": try make PYTHON=python3.11")'
	@echo 'setting up $(VENV), once: a minute or two'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch
	@touch $@

# One stamp for each set of extras: a second call installs nothing until these files change.
$(VENV)/.with-%: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable ".[$*]"
	@touch $@
