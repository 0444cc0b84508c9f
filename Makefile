# Each target is one command; what it needs it installs itself. See CONTRIBUTING.md.
VENV := .venv
STORE ?= runs/amber-tiny
PYTHON ?= python3
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_LINK_MODE ?= hardlink

.PHONY: help demo test bench lint clean cluster cluster-down
.DEFAULT_GOAL := help

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

$(VENV)/.demo: pyproject.toml uv.lock scripts/setup.sh
	@sh scripts/setup.sh --extra trainer
	@touch $@

$(VENV)/.test: pyproject.toml uv.lock scripts/setup.sh Makefile
	@sh scripts/setup.sh --extra trainer --extra eval --extra operator --extra dev
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.test
	@sh scripts/setup.sh --extra trainer --extra eval --extra operator --extra dev --group bench
	@touch $@

demo: | $(VENV)/.demo  ## train the small Amber on this machine and write its report
	@$(VENV)/bin/llm360 run amber-tiny --store $(STORE)
	@$(VENV)/bin/llm360 report $(STORE)

lint: $(VENV)/.test  ## style, types and layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint  ## everything; FAST=1 leaves out what needs servers and more than a few seconds
	$(VENV)/bin/pytest --durations=12 --durations-min=20 $(if $(FAST),tests/unit tests/gpu -m "not slow",tests/unit tests/gpu tests/integration tests/e2e)

cluster:  ## start a real Kubernetes with KubeRay, Kueue, S3 and Prometheus on this machine (tests/testbed)
	@cd tests && $(PYTHON) -m testbed up

cluster-down:  ## end it; what is costly to make again stays in a cache
	@cd tests && $(PYTHON) -m testbed down

bench: $(VENV)/.bench  ## the numbers of docs/benchmarks.md, each against a peer in the same run
	$(VENV)/bin/python tests/benchmarks/help.py
	$(VENV)/bin/python tests/benchmarks/data_path.py
	$(VENV)/bin/python tests/benchmarks/prepare.py speed
	$(VENV)/bin/python tests/benchmarks/prepare.py memory
	$(VENV)/bin/python tests/benchmarks/checkpoint.py
	$(VENV)/bin/python tests/benchmarks/verify.py
	$(VENV)/bin/python tests/benchmarks/evaluate.py
	$(VENV)/bin/python tests/benchmarks/memorization.py
	$(VENV)/bin/python tests/benchmarks/overhead.py --rounds 6
	PYTHONPATH=trainer $(VENV)/bin/python tests/benchmarks/step.py --device cpu --peer
	$(VENV)/bin/python tests/benchmarks/operator_scale.py --runs 10,100 --steady 30

clean:  ## remove the virtual environment and caches (never a run's release)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
