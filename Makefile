PYTHON ?= python3
TORCH_INDEX ?=
DEMO_ARGS ?=
JOBS ?= 2
TORCH := torch>=2.5,<=2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench bench-peers bench-learning bench-store experiments storm freshness containers clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Dolmen needs Python 3.11, 3.12 or 3.13; name one with make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) '$(TORCH)')
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## start everything, learn from a real click stream, rank before and after a click; DEMO_ARGS=--exit ends it
	$(BIN)/dolmen demo $(DEMO_ARGS)

test: $(STAMP)  ## every test, in JOBS processes, which start servers of their own
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(STAMP)  ## ruff, ruff format, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## speed of evaluate, of the stack, of ranking, of the store; writes docs/performance.md
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python -m benchmarks.report

bench-peers: $(STAMP)  ## Vowpal Wabbit, River and a torch DeepFM beside Dolmen; writes a section of docs/performance.md
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python -m pip install --quiet --only-binary vowpalwabbit -e '.[peers]' \
	  || echo "no wheel of Vowpal Wabbit for this Python and system: its rows are left out" >&2
	$(BIN)/python -m benchmarks.peers

bench-learning: $(STAMP)  ## what the learner must show where the truth is known; writes a section of docs/performance.md
	$(BIN)/python -m benchmarks.learning_checks

bench-store: $(STAMP)  ## the store alone: collisions, speed, memory, footprint, restore; about half an hour and 12 GiB
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python -m benchmarks.report collisionless index rows memory footprint restore

experiments: $(STAMP)  ## the papers' experiments on Dolmen; writes docs/experiments/
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/dolmen experiment --all

storm: $(STAMP)  ## twenty kills of the trainer against each broker, byte for byte, and of the joiner
	$(BIN)/python -m tests.e2e.storm --kills 20 --broker embedded
	$(if $(DOLMEN_TEST_KAFKA),$(BIN)/python -m tests.e2e.storm --kills 20 --broker apache --seed 2)
	$(if $(DOLMEN_TEST_KAFKA),$(BIN)/python -m tests.e2e.joiner_storm --kills 20 --broker apache)

containers:  ## build the image and bring the composition up without Grafana (needs podman-compose or docker compose)
	deploy/check.sh

clean:  ## remove the environment and all data of the local stack
	rm -rf $(VENV) .dolmen
