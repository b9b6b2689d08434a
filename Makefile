# `make demo` and `make test` are all that a fresh machine needs: Python 3.11, a C++ compiler and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n : 8)))

# Without a GPU in sight nothing runs the CUDA kernels, so they are neither built nor tested.
GPU := $(shell nvidia-smi -L > /dev/null 2>&1 && echo yes)
VISIONATTN_BUILD ?= $(if $(GPU),auto,cpu)
export VISIONATTN_BUILD
# Overrides constraints that the machine's own pip configuration may set.
export PIP_CONSTRAINT := constraints.txt

INSTALLED := $(VENV)/.installed
BUILD_INPUTS := pyproject.toml setup.py constraints.txt visionattn/_version.py $(shell find csrc -type f)
CPP_FILES = $(shell git ls-files 'csrc/*')
PYTEST := $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=worksteal

.PHONY: install demo test test-all lint format wheel clean

install: $(INSTALLED)

$(INSTALLED): $(BUILD_INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install torch numpy setuptools wheel ninja
	$(BIN)/python -m pip install --no-build-isolation --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python tools/demo.py

# Every kind of check, on small variants; the tests start one thread each, as they run side by side.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow$(if $(GPU),, and not cuda)"
	OMP_NUM_THREADS=1 $(BIN)/python tests/timm_suite.py

# Every variant and recorded value, then the wheel on other versions of Python and torch.
test-all: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PYTEST) -m "$(if $(GPU),,not cuda)"
	OMP_NUM_THREADS=1 $(BIN)/python tests/timm_suite.py --models all
	tests/wheel_matrix.sh

lint: $(INSTALLED)
	$(BIN)/pre-commit run --all-files

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

wheel: $(INSTALLED)
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist work_dirs *.egg-info visionattn/lib/*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
