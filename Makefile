# Every target sets up .venv if needed: a fresh machine needs only Python 3.11 or newer with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 42
KILLS ?= 120

# The lock files are resolved on one Python version and platform; pip adds dependencies of others (CUDA libraries, backports).
# --no-compile: pip would compile 15,000 modules on one core. The demo compiles the modules that it imports; for development
# compileall uses all cores (`|| true`, because some packages contain templates that are not valid Python).
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: help setup demo check ruff format-check mypy imports language spelling javascript docs test test-slow contract faults format lock bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

setup: $(VENV)/.dev  ## create .venv with the runtime and development packages; the other targets do this automatically

$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --requirement requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# Tests read CLIP's vocabulary from the wheel of open_clip. It is never imported, so its dependencies are not installed.
$(VENV)/.dev: requirements-dev.lock tests/requirements-vocabulary.txt $(VENV)/.runtime
	$(INSTALL) --requirement requirements-dev.lock
	$(INSTALL) --no-deps --requirement tests/requirements-vocabulary.txt
	$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true
	touch $@

demo: $(VENV)/.runtime  ## start the service, align the bundled model, write images from before and after to demo/ (SEED=)
	$(BIN)/g2rpo demo --seed $(SEED) --out demo

check: setup  ## run ruff, format check, mypy, import-linter, spelling and phrase check in parallel
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target mypy language ruff format-check imports spelling javascript

ruff: setup
	$(BIN)/ruff check .

format-check: setup
	$(BIN)/ruff format --check .

mypy: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

language: setup  ## list phrases to avoid in technical English (tests/language/phrases.toml)
	$(BIN)/python -m tests.language

javascript: setup  ## check the types, lint and format of the dashboard's JavaScript
	cd service/web && ../../$(BIN)/deno check --quiet static/app.js static/pages/*.js
	cd service/web && ../../$(BIN)/deno lint --quiet static
	cd service/web && ../../$(BIN)/deno fmt --quiet --check static

spelling: setup
	$(BIN)/codespell service worker tests benchmarks migrations docs README.md Makefile

test: setup  ## run the tests except the slow tests
	$(BIN)/python -m pytest -n auto

test-slow: setup  ## run the slow tests
	$(BIN)/python -m pytest -n auto -m slow

# About ten thousand requests, in minutes; CONTRACT_EXAMPLES sets the number of examples per operation.
contract: export CONTRACT_EXAMPLES ?= 40
contract: setup  ## test the HTTP contract with about ten thousand generated requests (CONTRACT_EXAMPLES=)
	$(BIN)/python -m pytest tests/service/test_contract.py

faults: setup  ## run the fault campaign, about 30 minutes, see docs/explanation/fault-tolerance.md (SEED=, KILLS=)
	$(BIN)/python -m tests.faults --seed $(SEED) --kills $(KILLS)

docs: setup  ## write the generated pages of docs/reference
	$(BIN)/python docs/generate.py

format: setup  ## fix lint errors and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd service/web && ../../$(BIN)/deno fmt --quiet static

bench: setup  ## run the short benchmarks in benchmarks/
	$(BIN)/python benchmarks/rollout.py
	$(BIN)/python benchmarks/perception.py
	$(BIN)/python benchmarks/api.py

# requirements-dev.lock contains the packages that development needs in addition to requirements.lock. The local version
# label of torch (+cpu, +cu…) depends on the machine, so the lock files omit it.
COMPILE = $(BIN)/pip-compile --quiet --strip-extras --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --unsafe-package pip
lock: setup  ## regenerate both lock files from pyproject.toml
	$(COMPILE) --extra worker --extra s3 --extra embedded --output-file requirements.lock pyproject.toml
	sed -i -e '/^torch==/s/+.*//' -e '/^[[:space:]]*\(#.*\)\?$$/d' requirements.lock
	$(COMPILE) --all-extras --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	sed -i -e '/^torch==/s/+.*//' -e '/^[[:space:]]*\(#.*\)\?$$/d' requirements-dev.lock
	grep --invert-match --line-regexp --fixed-strings --file=requirements.lock requirements-dev.lock > requirements-dev.lock.new
	mv requirements-dev.lock.new requirements-dev.lock
	sed -i '1i # Exact versions of the runtime packages (service, worker, S3, embedded servers) for CI and images. Generated by `make lock`.' requirements.lock
	sed -i '1i # Exact versions of the development packages that are not in requirements.lock. Generated by `make lock`.' requirements-dev.lock

clean:  ## remove .venv and the data of the demo and of local servers
	rm -rf $(VENV) demo .g2rpo
