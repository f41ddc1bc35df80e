# Two commands from a fresh clone: `make example` and `make test`. Each sets up what it needs, `make banking` too.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
# The models of the example and of the tests are so small that a second thread mostly waits for the first.
export OMP_NUM_THREADS ?= 1

# llama.cpp where `make llama` has built it; else what the environment or PATH has.
ifneq ($(wildcard build/llama.cpp/bin/llama-server),)
export FINETUNE_LLAMA_CPP ?= $(CURDIR)/build/llama.cpp
endif

.PHONY: llama example banking banking-base banking-seeds banking-curve banking-search test nightly slurm lint types docs dist versions clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pytest-finetune needs Python 3.11 or newer")'
	@echo "Installing into $(VENV), once: torch and some 150 packages, a few GB; five to ten minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

example: $(VENV)/ready
	@echo "Training and judging a small model on the CPU: about two minutes the first time, seconds after it."
	cd example_project && ../$(BIN)/python -m pytest --finetune $(ARGS)

banking-base: $(VENV)/ready
	$(BIN)/python examples/banking/make_base_model.py

# A model of 135 million parameters is worth every core: the limit above is not for it.
banking: banking-base
	@echo "Training and judging a model of 135 million parameters on the CPU: some six minutes the first time."
	cd examples/banking && env -u OMP_NUM_THREADS ../../$(BIN)/python -m pytest --finetune $(ARGS)

# Three adapters of one recipe, judged by the one that does best on a fifth of the training rows.
banking-seeds: banking-base
	@echo "Three trainings on the CPU: some twelve minutes the first time."
	cd examples/banking && env -u OMP_NUM_THREADS ../../$(BIN)/python -m pytest --finetune \
		--finetune-set split.dev=0.2 --finetune-set 'training.seeds=[0, 1, 2]' $(ARGS)

# On a fifth of the training rows, set aside to choose on: would more rows help, and which learning rate does best?
banking-curve: banking-base
	@echo "Four trainings on the CPU: some twenty minutes the first time."
	cd examples/banking && env -u OMP_NUM_THREADS ../../$(BIN)/pytest-finetune curve --set split.dev=0.2 $(ARGS)

banking-search: banking-base
	@echo "Eight trainings on the CPU: some forty minutes the first time."
	cd examples/banking && env -u OMP_NUM_THREADS ../../$(BIN)/pytest-finetune search --set split.dev=0.2 \
		--over training.learning_rate=1e-4..3e-3 --budget 8 $(ARGS)

test: $(VENV)/ready
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# What is worth its time once a day: the long tests, and the real model from its first row to a verdict.
nightly: banking llama
	$(BIN)/python -m pytest -n auto --dist loadfile -m nightly $(ARGS)

# Jobs on a real Slurm, which the tests start and stop: as root, with Debian's slurmctld, slurmd, slurm-client and munge.
slurm: $(VENV)/ready
	$(BIN)/python -m pytest -m nightly tests/integration/test_jobs_slurm.py $(ARGS)

# For runtimes with `gguf`: llama-server, llama-quantize and the converters, in build/llama.cpp.
llama: $(VENV)/ready
	@echo "Building llama.cpp from its source, once: some seven minutes on two cores."
	$(BIN)/python -m benchmarks.llama_cpp

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

# build/site, to be opened or served (`python -m http.server -d build/site`, for its search); a link that leads nowhere is
# an error.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Wheel and source distribution, each installed in an empty environment, and every extra alone: minutes, and gigabytes.
dist: $(VENV)/ready
	rm -rf dist
	$(PIP) install build
	$(BIN)/python -m build --quiet
	$(BIN)/python -m benchmarks.installs

# Each environment of the matrix is made with pip, tried and taken away again: hours, and gigabytes to fetch. The table is
# written whatever it shows.
versions: $(VENV)/ready
	$(PIP) install nox
	$(BIN)/python -m nox --no-stop-on-first-error

clean:
	cd example_project && rm -rf .finetune finetune-record artifacts
	cd examples/banking && rm -rf .finetune finetune-record artifacts
