# Every target does its own set-up: on a fresh machine only Python 3.11 or newer, with venv, is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 42
KILLS ?= 120

# The locks are made on one Python and one platform: pip adds what another one needs (CUDA libraries of torch, backports).
# pip would compile 15,000 modules on one core; for the demo Python compiles and keeps those that it imports, for
# development all are compiled on all cores (some packages carry a template that is not Python, hence `|| true`).
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: help setup demo check ruff format-check mypy imports language spelling docs test test-slow contract faults format lock bench clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

setup: $(VENV)/.dev  ## .venv with the runtime packages and those for development; every target below does what it needs

$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --requirement requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# The wheel of open_clip is there for CLIP's vocabulary, which tests read; it is never imported, nor what it depends on.
$(VENV)/.dev: requirements-dev.lock tests/requirements-vocabulary.txt $(VENV)/.runtime
	$(INSTALL) --requirement requirements-dev.lock
	$(INSTALL) --no-deps --requirement tests/requirements-vocabulary.txt
	$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true
	touch $@

demo: $(VENV)/.runtime  ## start everything, align the bundled model, draw before and after into demo/ (SEED=)
	$(BIN)/g2rpo demo --seed $(SEED) --out demo

check: setup  ## ruff, format, mypy and import-linter, side by side
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target ruff format-check mypy imports

ruff: setup
	$(BIN)/ruff check .

format-check: setup
	$(BIN)/ruff format --check .

mypy: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

language: setup  ## phrases that do not belong in technical English (tests/language/phrases.toml)
	$(BIN)/python -m tests.language

spelling: setup
	$(BIN)/codespell service worker tests benchmarks migrations docs README.md Makefile

test: setup  ## the suite without its slow tests
	$(BIN)/python -m pytest -n auto

test-slow: setup  ## the slow tests
	$(BIN)/python -m pytest -n auto -m slow

# Some ten thousand requests, in minutes; CONTRACT_EXAMPLES sets how many.
contract: export CONTRACT_EXAMPLES ?= 40
contract: setup  ## some ten thousand generated requests against the HTTP contract (CONTRACT_EXAMPLES=)
	$(BIN)/python -m pytest tests/service/test_contract.py

faults: setup  ## half an hour of killing, freezing and emptying, see docs/explanation/fault-tolerance.md (SEED=, KILLS=)
	$(BIN)/python -m tests.faults --seed $(SEED) --kills $(KILLS)

docs: setup  ## write the generated pages of docs/reference
	$(BIN)/python docs/generate.py

format: setup  ## let ruff repair and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## the benchmarks in benchmarks/
	$(BIN)/python benchmarks/rollout.py
	$(BIN)/python benchmarks/perception.py
	$(BIN)/python benchmarks/api.py

# The second lock is what development needs beyond the first. torch's local version label (+cpu, +cu…) depends on the
# machine; the locks name the release alone.
COMPILE = $(BIN)/pip-compile --quiet --strip-extras --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --unsafe-package pip
lock: setup  ## make both lock files anew from pyproject.toml
	$(COMPILE) --extra worker --extra s3 --extra embedded --output-file requirements.lock pyproject.toml
	sed -i -e '/^torch==/s/+.*//' -e '/^[[:space:]]*\(#.*\)\?$$/d' requirements.lock
	$(COMPILE) --all-extras --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	sed -i -e '/^torch==/s/+.*//' -e '/^[[:space:]]*\(#.*\)\?$$/d' requirements-dev.lock
	grep --invert-match --line-regexp --fixed-strings --file=requirements.lock requirements-dev.lock > requirements-dev.lock.new
	mv requirements-dev.lock.new requirements-dev.lock
	sed -i '1i # Exact versions of what runs: the service, a worker, S3 and the embedded servers. CI and the images install them; made by `make lock`.' requirements.lock
	sed -i '1i # Exact versions of what development needs on top of requirements.lock; made by `make lock`.' requirements-dev.lock

clean:  ## remove .venv and what the demo and servers left here
	rm -rf $(VENV) demo .g2rpo
