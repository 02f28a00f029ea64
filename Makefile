# Two commands: `make run` trains, grows and trains on; `make test` proves it. Both set up everything they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check format docs house wheel clean bench-streaming

run: $(VENV)/installed
	$(BIN)/outgrow quickstart

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

check: $(VENV)/installed
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/mypy
	$(BIN)/python tools/prose.py README.md CONTRIBUTING.md $$(find docs -name '*.md' -not -path 'docs/lab/*')

format: $(VENV)/installed
	$(BIN)/ruff format src tests benchmarks tools
	$(BIN)/ruff check --fix src tests benchmarks tools

docs: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/sphinx-build -W -b html docs docs/_build

house: $(VENV)/installed
	$(BIN)/python tools/house.py
	$(BIN)/python tools/house.py --counts

# Builds the wheel, installs it in a fresh environment, and tries it there, outside the repository.
wheel:
	rm -rf dist build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip wheel --quiet --no-deps -w dist .
	build/wheel/bin/pip install --quiet -c constraints.txt dist/outgrow-*.whl
	cd build && wheel/bin/python -P ../tools/try_wheel.py ..

bench-streaming: $(VENV)/installed
	$(BIN)/python benchmarks/streaming.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache docs/_build
