# Two commands: `make repro` runs the main job, `make test` passes the tests. Both set up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PATH := $(abspath $(BIN)):$(PATH)
export PATH
# One arena: the allocator otherwise keeps a copy of every tensor shape ever padded to.
export MALLOC_ARENA_MAX := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: repro record test test-network test-slow lint format setup clean

repro: $(VENV)/.stamp
	$(BIN)/supertiny check
	$(BIN)/dvc repro
	@echo "Results: reports/report.md   Try: $(BIN)/supertiny predict \"dim the kitchen lights to 30\""

# make record BACKEND=openai: asks the LLM of section teacher in params.yaml what is not recorded yet.
BACKEND ?= local
record: $(VENV)/.stamp
	$(BIN)/dvc repro prepare
	$(BIN)/supertiny record --backend $(BACKEND)

test: $(VENV)/.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10

test-network: $(VENV)/.stamp
	$(BIN)/python -m pytest -m network

test-slow: $(VENV)/.stamp
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.stamp

$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/supertiny plots-page
	touch $@

clean:
	rm -rf $(VENV) .supertiny
