# Two commands bring everything they need on a machine with Python 3.11 or newer and make: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
PY := $(VENV)/bin/python
UV_VERSION := 0.13.8
export UV_PYTHON_DOWNLOADS := never
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test check format dev bench setup prepare clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 10

demo: prepare ## 24 support tickets, a killed worker, people who decide, a broken tool, the proof (KEEP=1, TICKETS=file SHOP=file, MODEL=provider:model, SEED=n, SURGE=1)
	@$(PY) -m examples.support.demo $(if $(KEEP),--keep) $(if $(TICKETS),--tickets "$(TICKETS)") $(if $(SHOP),--shop "$(SHOP)") \
		$(if $(MODEL),--model "$(MODEL)") $(if $(SEED),--seed "$(SEED)") $(if $(SURGE),--surge)

test: prepare ## The whole test suite (ARGS="-k name" for a part)
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup ## Format, lint, types, import arrows
	@$(VENV)/bin/ruff format --check -q . || { echo "run: make format"; exit 1; }
	@$(VENV)/bin/ruff check -q .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: setup ## Format the code and mend what can be mended
	@$(VENV)/bin/ruff format -q . && $(VENV)/bin/ruff check -q --fix .

dev: prepare ## The development stack with a worker for examples/support (AGENTS=folder)
	@$(VENV)/bin/holdfast dev --agents $(or $(AGENTS),examples/support)

bench: prepare ## All benchmarks, or NAME=run
	@$(PY) -m benchmarks $(NAME)

prepare: setup ## Bring the Temporal dev server and PostgreSQL
	@$(PY) -m devstack.prepare

setup: $(VENV)/.complete ## Bring the Python environment

$(VENV)/.complete: pyproject.toml uv.lock
	@if [ -z "$(PYTHON)" ]; then echo "Holdfast needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python" >&2; exit 1; fi
	@if ! command -v uv >/dev/null && [ ! -x .uv/bin/uv ]; then \
		echo "bringing uv"; \
		$(PYTHON) -m venv .uv || { echo "this Python has no venv module: install it (Debian: apt install python3-venv)" >&2; exit 1; }; \
		.uv/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION); \
	fi
	@uv=$$(command -v uv || echo .uv/bin/uv); "$$uv" sync --frozen --quiet --python "$(PYTHON)"
	@touch $@

clean: ## Remove the environment and what tools left behind
	rm -rf $(VENV) .uv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
