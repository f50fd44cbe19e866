# Every target sets up what it needs in $(VENV). `make demo` and `make test` are all a newcomer has to know.
ROOT   := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
PYTHON ?= python3
VENV   ?= $(ROOT)/.venv
BIN    := $(abspath $(VENV))/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
CODE   := cli converter hw-bench updater telemetry runtime devices
KEEP   ?=
ARGS   ?=
LOCK   := $(ROOT)/requirements.lock

.PHONY: help install demo test check format bench soak record lock clean
.DEFAULT_GOAL := help

help: ## say what each target does
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "skerry needs Python 3.11 or newer; name one with PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "the venv module is incomplete; on Debian: apt-get install python3-venv" >&2; exit 2; }

# The stamp of one extra: made again when the dependencies change.
$(VENV)/.installed-%: $(ROOT)/pyproject.toml $(LOCK) | $(BIN)/python
	@echo "installing skerry[$*] into $(VENV)"
	@$(PIP) install -qq --progress-bar off -c $(LOCK) -e '$(ROOT)[$*]'
	@touch $@

install: $(VENV)/.installed-dev ## everything for developing, in .venv

demo: $(VENV)/.installed-demo ## the whole road on this machine; KEEP=1 leaves the fleet server up
	@cd $(ROOT) && $(BIN)/python -m examples.road $(if $(KEEP),--keep)

test: $(VENV)/.installed-dev ## every test; says what it left out and why
	@cd $(ROOT) && $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev ## lint, format, types, import contracts, exact exports
	@cd $(ROOT) && $(BIN)/ruff check .
	@cd $(ROOT) && $(BIN)/ruff format --check --quiet .
	@cd $(ROOT) && $(BIN)/mypy $(CODE)
	@cd $(ROOT) && $(BIN)/lint-imports --no-logo
	@cd $(ROOT) && $(BIN)/python -m pytest -q tests/test_exports.py

format: $(VENV)/.installed-dev ## put every file into the house form
	@cd $(ROOT) && $(BIN)/ruff check --fix --quiet .
	@cd $(ROOT) && $(BIN)/ruff format --quiet .

bench: $(VENV)/.installed-dev ## heavy measurements; results go to hw-bench/results/
	@cd $(ROOT) && $(BIN)/python hw-bench/plans/run_all.py $(ARGS)

soak: $(VENV)/.installed-dev ## long-running torture of the update path
	@cd $(ROOT) && $(BIN)/python tests/fault/power.py --out hw-bench/results/power_cut.json
	@cd $(ROOT) && $(BIN)/python tests/fault/sigkill.py --kills 200 --out hw-bench/results/sigkill.json
	@cd $(ROOT) && $(BIN)/python tests/fault/fuzz_trust.py --out hw-bench/results/trust_fuzz.json
	@cd $(ROOT) && $(BIN)/python tests/updater/fuzz_delta.py --out hw-bench/results/delta_fuzz.json
	@cd $(ROOT) && $(BIN)/python tests/fault/interrupt_road.py --out hw-bench/results/interrupt_road.json

record: $(VENV)/.installed-demo ## walk the road and keep what it prints, in the README too
	@cd $(ROOT) && $(BIN)/python .ci/record.py

lock: | $(BIN)/python ## resolve the newest versions that go together and write them down
	@cd $(ROOT) && $(BIN)/python .ci/lock.py $(LOCK)

clean: ## remove the environment and every cache; out/ stays
	@cd $(ROOT) && rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(ROOT) -name __pycache__ -type d -prune -exec rm -rf {} +
