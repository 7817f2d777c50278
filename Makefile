# Short names for bootstrap.py, which sets .venv up before it runs anything. Paths are relative: a checkout may have spaces.
PYTHON ?= python3
VENV := .venv/bin
COMPILE := $(VENV)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url

.DEFAULT_GOAL := help
.PHONY: help install dev test check lint format openapi lock

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' Makefile

install: ## set up .venv from requirements-dev.lock
	@$(PYTHON) bootstrap.py

dev: ## run everything on this machine; PORT=8123 chooses the API's port
	@$(PYTHON) bootstrap.py dev $(if $(PORT),--port $(PORT))

test: ## run every check and every test
	@$(PYTHON) bootstrap.py test

check: ## run formatter check, linter, types, import contracts, drift of generated files
	@$(PYTHON) bootstrap.py check

lint: install ## run the linter alone
	@$(VENV)/ruff check .

format: install ## rewrite the code as the formatter and the linter's safe fixes want it
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

openapi: install ## write openapi.json from the application
	@$(VENV)/python -m app.cli openapi > openapi.json.new && mv openapi.json.new openapi.json || { rm openapi.json.new; false; }

lock: install ## pin the dependencies of pyproject.toml, keeping what still fits; UPGRADE=1 takes the newest
	@$(COMPILE) $(if $(UPGRADE),--upgrade) -o requirements.lock pyproject.toml
	@$(COMPILE) $(if $(UPGRADE),--upgrade) -o requirements-dev.lock pyproject.toml --extra embedded --group dev
