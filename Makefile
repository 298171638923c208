# make demo   set up .venv, then do the main job on a small real image
# make test   set up everything, QEMU and libvirt too where allowed, and run all tests
# make test-newest-qemu  the tests that need only QEMU, with QEMU 11.1
# make test-forensics  analyse a real Linux guest with crash, drgn, volatility3 and others
# make check  lint and types, as CI does
# make bench  measure this machine; make bench-quick does it in a minute
# make fuzz   run every fuzz target for FUZZ_SECONDS (60)
# See HACKING.md for the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PYTEST_ARGS ?=
# Where the benchmarks make their images: a folder on the disk to measure.
BENCH_DIR ?= benchmarks/results

C_FILES := $(wildcard csrc/*.[ch] tests/csrc/*.[ch] tests/faults/*.[ch] tests/fuzz/*.[ch])
FUZZ_SECONDS ?= 60
# The program that fuzzes the Python parsers; it runs with FUZZ_SECONDS in its environment,
# if it is installed.
FUZZ_PY ?= tests/fuzz/py/run
PY_EXTRA := $(wildcard benchmarks/*.py) docs/generate.py docs/sessions.py

# Test files that run at once.
JOBS ?= 2

.PHONY: demo test test-newest-qemu test-forensics check csan fuzz format docs tables setup build wheels clean bench bench-quick
.DELETE_ON_ERROR:

demo: build
	@$(BIN)/python tools/demo

test: setup csan
	@tools/install-interop || echo "make test: going on; tests of programs that are not here skip"
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

# The tests that need only QEMU, with the newest QEMU, which is unpacked next to the system's.
NEWEST_QEMU := /var/lib/savefmt-qemu-11.1/qemu-system-x86_64
test-newest-qemu: setup
	@tools/install-qemu-beside 11.1
	INTEROP_QEMU=$(NEWEST_QEMU) $(BIN)/python -m pytest $(PYTEST_ARGS) \
	    $(addprefix tests/interop/test_,qemu_loads.py export.py guest.py instant.py \
	    live_forms.py preflight.py snapshots.py)

test-forensics: setup
	$(PIP) install --group forensics
	@tools/install-interop || echo "make test-forensics: going on without real QEMU and libvirt"
	@tools/install-forensics || echo "make test-forensics: going on without some of the tools"
	$(BIN)/python -m pytest -m forensics tests/forensics $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src tests setup.py tools/demo $(PY_EXTRA)
	$(BIN)/mypy tools/smoke
	@if command -v $(BIN)/clang-format >/dev/null; then \
	    $(BIN)/clang-format --dry-run --Werror $(C_FILES) && echo "clang-format: good"; \
	else echo "clang-format: not here, left out"; fi

csan:
	@$(MAKE) --no-print-directory -C tests/csrc

# Crashes and found inputs stay in tests/csrc/build; see tests/fuzz/README.
fuzz: setup
	@$(MAKE) --no-print-directory -C tests/csrc fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)
	@if [ -x $(FUZZ_PY) ]; then \
	    FUZZ_SECONDS=$(FUZZ_SECONDS) PATH="$(CURDIR)/$(BIN):$$PATH" $(FUZZ_PY); fi

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

# Writes the tables of docs/choosing-a-format.md, from savefmt's own tables, and the output
# in the sessions of the tutorial and the README.
tables: build
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/sessions.py

# About ten minutes, 16 GiB of disk, 8 GiB of memory; the quick one a minute and a tenth.
bench: setup
	@mkdir -p benchmarks/results $(BENCH_DIR)
	@$(BIN)/python -m compileall -q src
	$(BIN)/python benchmarks/run.py --dir $(BENCH_DIR) --json benchmarks/results/full.json \
	    --markdown docs/benchmarks.md --plot docs/benchmarks.svg --readme README.md

bench-quick: setup
	@mkdir -p benchmarks/results $(BENCH_DIR)
	@$(BIN)/python -m compileall -q src
	$(BIN)/python benchmarks/run.py --scale quick --dir $(BENCH_DIR) \
	    --json benchmarks/results/quick.json --plot benchmarks/results/quick.svg

# The sdist and the wheel into dist/, each tried in an empty environment.
wheels:
	@tools/make-wheels $(PYTHON)

docs: build
	$(PIP) install --no-build-isolation --editable '.[docs]'
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build

# Each step leaves a stamp, so that a second run has nothing to set up.
setup: $(VENV)/.dev
build: $(VENV)/.built

$(VENV)/.tools:
	@tools/setup-host $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip 'setuptools>=77' 'cffi>=2.0'
	@touch $@

# The old module is removed first, so that nothing imports it after a failed build.
$(VENV)/.built: $(VENV)/.tools pyproject.toml setup.py $(wildcard csrc/*)
	rm -rf build src/savefmt/native/_core*.so
	$(PIP) install --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.built
	$(PIP) install --group test --group lint
	@touch $@

clean:
	@$(MAKE) --no-print-directory -C tests/csrc clean
	rm -rf $(VENV) build dist demo-out docs/_build src/*.egg-info src/savefmt/native/_core*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
