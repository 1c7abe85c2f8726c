# The lab's commands. `make help` lists them; each needs only Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := build/peers
RUNS ?= 1
FAULTS ?= 200
MINUTES ?= 10

.DEFAULT_GOAL := help
.PHONY: help setup lab up down reset status serve test check notebooks mutants zoo soak chaos bench lock clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv (silent when nothing changed)

# uv installs the same locked files several times faster; plain pip is enough.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "labshop needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the lab into $(VENV) (once) ..."
	@if command -v uv >/dev/null 2>&1; then \
	    VIRTUAL_ENV=$(VENV) uv pip install --quiet --require-hashes -r requirements.lock && \
	    VIRTUAL_ENV=$(VENV) uv pip install --quiet --no-deps --no-build-isolation -e . ; \
	else \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

lab: setup ## Open the lessons in JupyterLab, with Redis and the shop running
	@$(BIN)/labshop lab

up: setup ## Start Redis and the shop in the background
	@$(BIN)/labshop up --detach

down: setup ## Stop what `make up` started
	@$(BIN)/labshop down

reset: setup ## Stop it and forget all orders, for the next group
	@$(BIN)/labshop reset

status: setup ## Show what is running, and where
	@$(BIN)/labshop status || test $$? -eq 3

serve: setup ## Run only the shop's API in the foreground
	@$(BIN)/labshop serve

test: setup ## Run the whole test suite, notebooks included
	@$(BIN)/python -m pytest

check: setup ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

notebooks: setup ## Rebuild and execute the lessons from their lesson.py
	@$(BIN)/python notebooks/build.py

mutants: setup ## Prove grader and lock tests: each known defect is seen
	@$(BIN)/python -m pytest tests/lessons/test_known_wrong_*.py -v
	@$(BIN)/python -m tests.locks.mutants

zoo: setup ## Let every bug of the zoo sell, and see the judge catch it
	@$(BIN)/labshop zoo --runs $(RUNS)

soak: setup ## Let each stage sell under faults, 200 seeded runs each
	@for stage in v1 v2 v3 v4; do $(BIN)/labshop soak $$stage || exit 1; done

chaos: setup ## Sell while 200 seeded faults strike; longer by FAULTS=1200 MINUTES=60
	@$(BIN)/labshop chaos --faults $(FAULTS) --minutes $(MINUTES)

bench: setup $(PEERS)/.installed ## Measure locks, ours and others', and a v1 purchase
	@PYTHONPATH="$(CURDIR)/$(PEERS)$${PYTHONPATH:+:$$PYTHONPATH}" $(BIN)/labshop bench

# Each on its own, so that one that cannot be installed here is only missing from the table.
$(PEERS)/.installed: requirements-bench.lock $(STAMP)
	@echo "Installing the peers of the benchmark into $(PEERS) (once) ..."
	@rm -rf $(PEERS) && mkdir -p $(PEERS)
	@awk '/^ *#/ { next } { if (sub(/\\$$/, "")) printf "%s", $$0; else print }' $< | \
	while read -r peer; do \
	    printf '%s\n' "$$peer" >$(PEERS)/.peer; \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	        --target $(PEERS) -r $(PEERS)/.peer </dev/null \
	    || { touch $(PEERS)/.missing; echo "$${peer%% *} cannot be installed here (tried again next time)."; }; \
	done
	@test -e $(PEERS)/.missing || touch $@

lock: setup ## Resolve the dependencies anew into requirements.lock (needs uv)
	@uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --custom-compile-command "make lock" -q -o requirements.lock
	@uv pip compile --group bench --no-deps --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --custom-compile-command "make lock" -q -o requirements-bench.lock

clean: ## Remove everything that was built, and the lab's data
	@rm -rf $(VENV) .labshop build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
