# Two commands for people: `make demo` and `make test`. Both set up what they need.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers, a file of tests at a time, the slow ones first (tests/conftest.py). A machine's emulator is one thread.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test quick bench compare powercuts docs setup boot-setup clean

help:
	@echo "make demo    the main job on a built-in metadata service and a scratch root (no root needed)"
	@echo "make test    every check: linters, types, units, cases, container boots, machine boots"
	@echo "make quick   the same without the boots"
	@echo "make docs    write anew what is generated: docs/cloud-config.schema.json, docs/modules"
	@echo "make compare boot the same user data under Debian's cloud-init and under us, compare the machines (root, 8 minutes)"
	@echo "make powercuts  cut the power of a machine with a root on a volume 20 times, as root and as overlay (root, 30 minutes)"
	@echo "make bench   compare with Debian's cloud-init package (root, takes long)"

setup: $(VENV)/ready

# On a bare Debian python3 cannot make environments; root can mend that, others are told what is missing.
$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; \
	  else echo "python3 has no ensurepip: install python3-venv" >&2; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

boot-setup:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then tests/boot/setup; \
	else echo "boot tests are skipped: they need root on Debian"; fi

demo: setup
	@$(BIN)/cloudboot demo

quick: setup
	$(BIN)/pytest $(TWO) tests/unit

test: setup boot-setup
	$(BIN)/pytest $(TWO)

docs: setup
	$(BIN)/python -m cloudboot.schema > docs/cloud-config.schema.json.new
	mv docs/cloud-config.schema.json.new docs/cloud-config.schema.json
	$(BIN)/python tests/tools/module_pages.py

bench: setup boot-setup
	$(BIN)/python tests/bench/userdata.py
	$(BIN)/python tests/bench/compare.py

compare: setup boot-setup
	$(BIN)/python tests/compare/run.py

powercuts: setup boot-setup
	CLOUDBOOT_POWER_CUTS=20 $(BIN)/pytest -s tests/boot/test_root_cuts.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
