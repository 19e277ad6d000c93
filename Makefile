# Verbs of the project; `make help` lists them.

PYTHON ?= python3
# Index that pip takes torch from, for example the one of PyTorch's CPU builds: make demo TORCH_INDEX=URL
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What asks a gateway in tests/clients, apart from the versions that the gateway has.
CLIENTS_VENV := .venv-clients
CLIENTS_PIP := $(CLIENTS_VENV)/bin/pip install --quiet --disable-pip-version-check
CLIENTS_NODE := tests/clients/node
PROTOS := $(wildcard protos/expertmesh/v1/*.proto)

HELM_VALUES = $(if $(filter cpu-demo,$(1)),helm/expertmesh/values-cpu-demo.yaml,tests/helm/values/$(1).yaml)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-clients test-gpu e2e chaos soak golden lock check format protos reference bench bench-gpu model clean

help: ## List the verbs
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "expertmesh needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(VENV)/bin/pip
	@echo "Installing torch into $(VENV) (once, about two minutes) ..."
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing expertmesh into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Make .venv and install expertmesh into it

demo: $(VENV)/.installed ## Start a mesh of processes from the shipped model and ask it questions
	@$(BIN)/python examples/demo.py

test: $(VENV)/.installed-dev ## Run every test but those that need a GPU, a cluster, clients of others or many minutes
	@$(BIN)/pytest -m "not gpu and not e2e and not clients and not slow" --numprocesses auto --maxprocesses 8 --dist loadfile

$(CLIENTS_VENV)/.installed: pyproject.toml
	@echo "Installing the clients into $(CLIENTS_VENV) (once, about three minutes) ..."
	@$(PYTHON) -m venv $(CLIENTS_VENV)
	@$(CLIENTS_PIP) "pip>=25.1"
	@$(CLIENTS_PIP) --group clients
	@touch $@

$(CLIENTS_NODE)/node_modules/.installed: $(CLIENTS_NODE)/package.json
	@if command -v npm >/dev/null; then npm install --prefix $(CLIENTS_NODE) --no-audit --no-fund --loglevel=error && touch $@; \
		else echo "There is no npm: the clients of Node.js are left out" >&2; fi

test-clients: $(VENV)/.installed-dev $(CLIENTS_VENV)/.installed $(CLIENTS_NODE)/node_modules/.installed ## Ask a gateway with the clients of others
	@PATH="$(CURDIR)/$(BIN):$$PATH" LITELLM_LOCAL_MODEL_COST_MAP=True OPENAI_AGENTS_DISABLE_TRACING=1 \
		$(CLIENTS_VENV)/bin/pytest -m clients -W ignore --confcutdir=tests/clients tests/clients
	@$(BIN)/pytest -m clients tests/integration

test-gpu: $(VENV)/.installed-dev ## Run the tests that need a CUDA device
	@$(BIN)/pytest -m gpu

e2e: $(VENV)/.installed-dev ## Run the tests that need a Kubernetes cluster, the one that KUBECONFIG names
	@E2E_VALUES="$(E2E_VALUES)" E2E_MANIFEST="$(E2E_MANIFEST)" $(BIN)/pytest -m e2e tests/e2e

chaos: $(VENV)/.installed-dev ## Let replicas and networks fail under load (20 minutes), and write docs/reliability.md
	@$(BIN)/python benchmarks/chaos.py --write docs/reliability.md

soak: $(VENV)/.installed-dev ## Ask a mesh for everything it serves for half an hour, and watch its memory
	@$(BIN)/python benchmarks/soak.py

golden: ## Render the chart anew for tests/helm/golden
	@$(foreach name,default full cpu-demo,helm template mesh helm/expertmesh --namespace serving --kube-version 1.34.0 \
		--values $(call HELM_VALUES,$(name)) > tests/helm/golden/$(name).yaml &&) true

lock: $(VENV)/.installed ## Write the locks of the images, docker/locks/, anew
	@$(PIP_INSTALL) 'uv>=0.13'
	@PATH="$(CURDIR)/$(BIN):$$PATH" TORCH_INDEX="$(TORCH_INDEX)" sh docker/lock.sh

check: $(VENV)/.installed-dev ## Check format, lint, types, imports and generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/mypy benchmarks
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python protos/generate.py --check

format: $(VENV)/.installed-dev ## Format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

protos: $(VENV)/.installed-dev ## Generate the gRPC stubs from protos/
	@$(BIN)/python protos/generate.py

reference: $(VENV)/.installed-dev ## Write the Python API's reference to build/reference
	@$(BIN)/pdoc --output-directory build/reference expertmesh.client expertmesh.errors

bench: $(VENV)/.installed-dev ## Run the benchmarks
	@$(BIN)/python benchmarks/rpc_hop.py
	@$(BIN)/python benchmarks/layer.py
	@$(BIN)/python benchmarks/cpu_kernels.py
	@$(BIN)/python benchmarks/cpu_attention.py
	@$(BIN)/python benchmarks/memory.py
	@$(BIN)/python benchmarks/engine_restart.py
	@$(BIN)/python benchmarks/sampler.py
	@$(BIN)/python benchmarks/calibration.py

bench-gpu: $(VENV)/.installed-dev ## Run the benchmarks that need a CUDA device
	@$(BIN)/python benchmarks/gpu_ffn.py
	@$(BIN)/python benchmarks/gpu_serve.py

model: $(VENV)/.installed-dev ## Train the demo model anew (60 to 90 minutes on two cores)
	@$(BIN)/python examples/tiny-mixtral/train.py

clean: ## Remove .venv and caches
	@rm -rf $(VENV) $(CLIENTS_VENV) $(CLIENTS_NODE)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
