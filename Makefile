# Every target does its own set-up: on a fresh machine only Python 3.11 or newer, with venv, is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 42
KILLS ?= 120

.PHONY: setup demo test test-slow contract faults check format lock bench clean

setup: $(VENV)/.installed

# The wheel of open_clip is there for CLIP's vocabulary, which tests read; it is never imported, nor what it depends on.
$(VENV)/.installed: requirements.lock pyproject.toml tests/requirements-vocabulary.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --requirement tests/requirements-vocabulary.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/g2rpo demo --seed $(SEED) --out demo

test: setup
	$(BIN)/python -m pytest -n auto

test-slow: setup
	$(BIN)/python -m pytest -n auto -m slow

# Some ten thousand requests, in minutes; CONTRACT_EXAMPLES sets how many.
contract: export CONTRACT_EXAMPLES ?= 40
contract: setup
	$(BIN)/python -m pytest tests/service/test_contract.py

# Half an hour of killing, freezing and emptying: docs/faults.md.
faults: setup
	$(BIN)/python -m tests.faults --seed $(SEED) --kills $(KILLS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/rollout.py
	$(BIN)/python benchmarks/perception.py
	$(BIN)/python benchmarks/api.py

# torch's local version label (+cpu, +cu…) depends on the machine; the lock names the release alone.
lock: setup
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --no-annotate --no-header --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml
	sed -i -e '/^torch==/s/+.*//' -e '1i # Exact versions that CI and the images install; made by `make lock`.' requirements.lock

clean:
	rm -rf $(VENV) demo .g2rpo
