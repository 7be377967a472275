.PHONY: setup demo ui test test-slow lint clean
PYTHON ?= python3
TEST_PROCESSES ?= 2
VENV := .venv/bin
export DAGSTER_HOME ?= $(CURDIR)/.dagster

setup:
	@PYTHON=$(PYTHON) deploy/local/install.sh

demo: setup
	@$(VENV)/python -m caption_assets.demo

ui: setup
	@$(VENV)/python -m caption_assets.demo --prepare
	@$(VENV)/dagster dev -w workspace.yaml --log-level warning

lint: setup
	@$(VENV)/ruff check caption_assets caption_assets_tests
	@$(VENV)/ruff format --check caption_assets caption_assets_tests
	@$(VENV)/mypy

test: lint
	@$(VENV)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not slow"

test-slow: setup
	@$(VENV)/python -m pytest -m slow

clean:
	rm -rf .dagster lake demo_pictures
