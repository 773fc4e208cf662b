# Everything happens in .venv, which these targets make. `make demo` and `make test` are the two that a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
SIMULATOR := $(VENV)/simulator-installed
PEERS := $(VENV)/peers-installed
# Of benchmarks/cpu.py; `make bench BENCH_OPTIONS=--quick` takes a minute, --write-docs writes docs/cpu_benchmark.*.
BENCH_OPTIONS ?=
# Most of the tests' time is XLA compiling, one thread a process.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/pytest -n $(TEST_PROCESSES)
export JAX_PLATFORMS ?= cpu

SOURCES := pyproject.toml CMakeLists.txt README.md $(wildcard ffi/* ffi/*/* tests/ffi/* jax_fa4/*.py jax_fa4/*/*.py jax_fa4/*/*/*.py jax_fa4/*.pyi)
SIMULATOR_SOURCES := $(wildcard simulator/*.* simulator/*/*.*) ffi/cuda/driver_abi.h

.PHONY: demo test test-full test-gpu lint sanitize bench bench-gpu bench-model bench-context bench-launch clean install

$(VENV)/build-tools:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "scikit-build-core>=0.10" "nanobind>=2.4" "jax>=0.10" cmake ninja
	touch $@

# Without build isolation the build folder stays valid: a changed file compiles alone.
$(INSTALLED): $(VENV)/build-tools $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation ".[test]"
	touch $@

# A package of its own, which is no part of the wheel.
$(SIMULATOR): $(VENV)/build-tools $(SIMULATOR_SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation ./simulator
	touch $@

# What the CPU kernel is measured beside, which nothing else needs.
$(PEERS): $(INSTALLED)
	$(BIN)/pip install --quiet --no-build-isolation ".[bench]"
	touch $@

install: $(INSTALLED) $(SIMULATOR)

demo: $(INSTALLED)  ## train a small language model, beside jax.nn.dot_product_attention
	$(BIN)/python examples/train_char_lm.py

test: $(INSTALLED) $(SIMULATOR)  ## quick tests
	$(PYTEST) -m "not slow"

test-full: $(INSTALLED) $(SIMULATOR)  ## all tests, then the kernels and the simulator under sanitizers
	$(PYTEST) --simulator-rows
	$(MAKE) sanitize

# These two need an NVIDIA GPU, and PYTHON to have JAX for CUDA; they install beside it, into build/gpu. See tests/gpu/run.sh.
test-gpu:  ## all that needs a GPU: its tests, the simulator beside it, the benchmark's quick form
	PYTHON=$(PYTHON) tests/gpu/run.sh

bench-gpu:  ## the CUDA kernels beside the card's matrix products and other implementations
	PYTHON=$(PYTHON) BENCH_OPTIONS="$(BENCH_OPTIONS)" BENCH_SECONDS=3600 tests/gpu/run.sh card install kernels bench

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(PEERS)  ## the CPU kernel beside the machine's own limits and other implementations
	$(BIN)/python benchmarks/cpu.py $(BENCH_OPTIONS)

bench-model: $(INSTALLED)  ## what limits the Blackwell kernels, counted in their machine code
	$(BIN)/python benchmarks/model.py --shares

bench-context: $(INSTALLED)  ## context parallelism at 8 to 4096 GPUs, on paper
	$(BIN)/python benchmarks/context_parallel_model.py

bench-launch: $(INSTALLED)  ## host time of a call on a GPU, with a driver that does nothing
	$(BIN)/python benchmarks/launch.py

# The extensions under AddressSanitizer and UndefinedBehaviorSanitizer: random malformed calls, the kernel tests, the simulator's.
SANITIZED := build/sanitized
SANITIZED_TESTS ?= tests/test_kernel.py tests/simulator
SANITIZE = $(BIN)/pip install --quiet --no-deps --no-build-isolation --upgrade --target $(SANITIZED)/site \
	  -C cmake.define.JAX_FA4_SANITIZE=ON
$(SANITIZED)/installed: $(INSTALLED)
	$(SANITIZE) -C build-dir=$(SANITIZED)/build .
	touch $@

$(SANITIZED)/simulator-installed: $(SIMULATOR)
	$(SANITIZE) -C build-dir=$(CURDIR)/$(SANITIZED)/simulator ./simulator
	touch $@

sanitize: $(SANITIZED)/installed $(SANITIZED)/simulator-installed
	$(SANITIZED)/build/ffi_fuzz
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(CURDIR)/$(SANITIZED)/site $(PYTEST) $(SANITIZED_TESTS)

clean:
	rm -rf build $(VENV)
