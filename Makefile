# drivefs: the commands of a developer. `make demo` shows it working, `make test` proves it.
# Everything runs in .venv, which scripts/setup makes and keeps current; nothing is installed into the system's Python.

BIN := .venv/bin
PYTHON_FILES := drivefs agent tests $(wildcard bench)
MOUNT ?= /content/drive

.PHONY: help demo setup check test crash-long browser lint types lock clean

help:
	@echo "make demo    mount the embedded Drive at MOUNT=$(MOUNT), run the classic notebook cells, unmount"
	@echo "make setup   only .venv, with everything to develop; says what it installs"
	@echo "make check   format, lint, types, layering, fast tests (under a minute)"
	@echo "make test    everything, with real mounts and crashes"
	@echo "make crash-long  hours of kills, power cuts, and all short sequences of operations"
	@echo "make lock    resolve the dependencies anew (LOCK_BEFORE=YYYY-MM-DD)"
	@echo "make clean   remove .venv and all caches"

demo: setup
	@scripts/demo $(MOUNT)

setup:
	@scripts/setup

lint:
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/ruff check $(PYTHON_FILES)

types:
	$(BIN)/mypy

# Many tests wait for a server or a clock more than they compute: four at a time keep two cores busy.
check: setup lint types
	$(BIN)/pytest -q -n 4 -m "not slow and not mount"

# Two files at a time: many tests wait for a clock, a kernel or a server more than they compute.
test: browser lint types
	$(BIN)/pytest -q -n 2 --dist loadfile

# tests/crash without the limits that keep it short; root, for the disks whose power is cut.
crash-long: setup
	DRIVEFS_CRASH_ROUNDS=300 DRIVEFS_POWER_ROUNDS=150 DRIVEFS_SEQUENCES=0 $(BIN)/pytest -s tests/crash

browser:
	@scripts/setup --tests

lock: setup
	scripts/lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist artefacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
