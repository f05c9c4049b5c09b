# Everything here works on a fresh clone: a target makes the virtual environment that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
IDEA ?= Use batches of 8 sequences instead of 32.
DEMO_FLAGS ?=
PYTEST_FLAGS ?=
ACCEPT ?=
# The image to start from; empty: a CUDA base for image, Debian for image-cpu.
BASE ?=
IMAGE_FLAGS ?=
ENGINE ?= $(HOME)/.cache/xar-agent/engine

.PHONY: setup dev check fix test demo docs soak accept-1 accept-2 accept-3 accept-4 gpu-check image image-cpu engine-start engine-stop engine-images clean

setup: $(VENV)/.run-installed
dev: $(VENV)/.dev-installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "xar-agent needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 3; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 3; }

# Wheels are taken as they are, so nothing is compiled; torch alone is about 200 MB as a CPU build, more with CUDA.
$(VENV)/.run-installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[local,train]'
	@touch $@

$(VENV)/.dev-installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[local,train,dev]'
	@touch $@ $(VENV)/.run-installed

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: dev
	$(BIN)/python -m pytest -n 2 -m "not soak and not llm and not gpu" $(PYTEST_FLAGS)

demo: setup
	$(BIN)/xar-agent implement "$(IDEA)" $(DEMO_FLAGS)

docs: dev
	$(BIN)/python -m xar_agent.cli.reference > docs/cli.md

soak: dev
	$(BIN)/python -m pytest -m soak $(PYTEST_FLAGS)

accept-1: dev
	$(BIN)/python benchmarks/accept/accept_1.py

accept-2: dev
	$(BIN)/python benchmarks/accept/accept_2.py $(ACCEPT)

# As root, with an engine: eval "$$(make -s engine-start)", make engine-images accept-3 engine-stop.
accept-3: dev
	$(BIN)/python benchmarks/accept/accept_3.py $(ACCEPT)

accept-4: dev
	$(BIN)/python benchmarks/accept/accept_4.py $(ACCEPT)

# Whatever only a GPU shows, in under 40 minutes; writes a dated record into benchmarks/gpu. Without a GPU: exit 3.
gpu-check: dev
	$(BIN)/python benchmarks/gpu/check.py

image: setup
	$(BIN)/python -m xar_agent.sandbox.build gpu $(if $(BASE),--base $(BASE)) $(IMAGE_FLAGS)

image-cpu: setup
	$(BIN)/python -m xar_agent.sandbox.build cpu $(if $(BASE),--base $(BASE)) $(IMAGE_FLAGS)

# An engine for tests, as root: eval "$$(make -s engine-start)", make engine-images test engine-stop.
engine-start:
	@$(PYTHON) tests/engine/engine.py start $(ENGINE)

engine-stop:
	@$(PYTHON) tests/engine/engine.py stop $(ENGINE)

# Without a registry: the base from this machine's Debian packages, the wheels from pip on this machine.
engine-images: dev
	$(BIN)/python tests/engine/base_image.py
	wheels="$$($(BIN)/python tests/engine/wheelhouse.py)" && $(MAKE) image-cpu BASE=xar-agent-test:base IMAGE_FLAGS="--wheelhouse '$$wheels' --no-network"

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
