# Two commands do everything: `make demo` and `make test`; each sets up what it needs and prints what it does.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Four test files at a time (some wait for servers), in order (else the few long ones come last and others wait); the
# tests of one file stay together, because they share what they have set up.
PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-all lint format bench bench-full clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      set up, and run the main job on the shipped sample"
	@echo "make test      set up, and run the tests (under ten minutes)"
	@echo "make test-all  the tests in their long forms too"
	@echo "make lint      ruff and mypy"
	@echo "make bench     speed and memory beside other tools, in short form (a quarter of an hour)"
	@echo "make bench-full  the same in the long form (hours)"

# torch first and alone: constraints.txt pins the version of which a CPU build is offered, so that nothing
# after it pulls in gigabytes of GPU libraries.
$(READY): pyproject.toml constraints.txt
	@echo "== setting up $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[test]'
	@touch $@

demo: $(READY)
	@echo "== curate demo: embed, group, deduplicate and prune the 2,000 pairs in data/sample"
	$(BIN)/curate demo

# Bytecode is kept, whatever the environment says: every process that a test starts would compile the package anew,
# and those that begin together here, too.
test test-all: export PYTHONDONTWRITEBYTECODE :=

test: $(READY)
	@echo "== tests"
	@$(BIN)/python -m compileall -q curate flows
	$(BIN)/python -m pytest -q -m "not long" $(PARALLEL)

test-all: $(READY)
	@echo "== tests, with the long ones"
	@$(BIN)/python -m compileall -q curate flows
	$(BIN)/python -m pytest -q --timeout 3600 $(PARALLEL)

lint: $(READY)
	@echo "== lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tools that need other versions have environments of their own, made once; without a network they are left out.
bench: $(READY)
	@echo "== benchmarks, short"
	$(BIN)/python benchmarks/peers
	$(BIN)/python benchmarks --short

bench-full: $(READY)
	@echo "== benchmarks, long"
	$(BIN)/python benchmarks/peers
	$(BIN)/python benchmarks

clean:
	rm -rf $(VENV) .peers build dist *.egg-info
