# `make demo` and `make test` are all one needs; each sets up .venv first if it is not there. Paths are relative, so
# the folder may have spaces in its name.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt
NATIVE := CMakeLists.txt pyproject.toml $(wildcard cmake/* csrc/* tests/cpp/*)

.PHONY: demo test lint types imports unit format fuzz fuzz-engine sanitized sanitize sanitize-threads leaks wheels
.PHONY: test-arm arm-tools test-old-cpus old-cpus-tools clean
.PHONY: bench-quick bench bench-full bench-runtime bench-training bench-samples bench-half-width

demo: $(VENV)/installed
	$(PY) examples/co2/demo.py

test: lint types imports unit

# Before the build, which takes minutes.
lint: $(VENV)/tools
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(VENV)/bin/clang-format --dry-run -Werror csrc/* tests/cpp/*.cc tests/cpp/*.h

types: $(VENV)/installed
	$(PY) -m pyright

imports: $(VENV)/installed
	$(VENV)/bin/lint-imports

unit: $(VENV)/installed
	$(PY) -m pytest -q --doctest-modules src
	$(PY) -m pytest -q

format: $(VENV)/installed
	$(PY) -m ruff check --fix
	$(PY) -m ruff format
	$(VENV)/bin/clang-format -i csrc/* tests/cpp/*.cc tests/cpp/*.h

# Instruction sets that this processor lacks, emulated by qemu-user. Every one computes the same recorded cases to the
# same bits, and runs them on older processors without an illegal instruction.
build/cases.bin: $(VENV)/installed $(wildcard src/gatewise/*/*.py) tests/native/native_cases.py tests/native/native_record.py
	PYTHONPATH=tests $(PY) tests/native/native_record.py $@

test-arm: arm-tools build/cases.bin
	build/cpp/bits build/cases.bin
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake -S tests/cpp -B build/arm -G Ninja -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake --build build/arm
	printf 'neon+bfloat16\nbaseline\n' | xargs -P 2 -I ISA qemu-aarch64 -L /usr/aarch64-linux-gnu build/arm/bits build/cases.bin ISA

arm-tools:
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool > /dev/null || { \
	  echo "make test-arm needs $$tool. Debian, Ubuntu: apt install g++-aarch64-linux-gnu qemu-user."; exit 1; }; done

# With the wheel of `make wheels`, in an environment of its own; or in OLD_CPUS_PYTHON=PATH/python, which has torch too.
OLD_CPUS_PYTHON ?=
test-old-cpus: old-cpus-tools $(if $(OLD_CPUS_PYTHON),,build/old-cpus/installed) build/cases.bin
	$(PY) tests/old_cpus.py build/cpp build/cases.bin "$(or $(OLD_CPUS_PYTHON),build/old-cpus/bin/python)"

build/old-cpus/installed: $(wildcard dist/*.whl)
	@ls dist/*.whl > /dev/null 2>&1 || { echo "make test-old-cpus needs the wheel that make wheels leaves in dist/."; exit 1; }
	$(PYTHON) -m venv --clear build/old-cpus
	build/old-cpus/bin/python -m pip install -q --disable-pip-version-check --no-index --no-deps --find-links dist gatewise
	build/old-cpus/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt numpy safetensors torch
	touch $@

old-cpus-tools:
	@for tool in qemu-x86_64 objdump; do command -v $$tool > /dev/null || { \
	  echo "make test-old-cpus needs $$tool. Debian, Ubuntu: apt install qemu-user binutils."; exit 1; }; done

# About 1 minute, 11, and hours (every shape and peer; compiling a loop takes a minute). All figures go to build/, the
# table to the screen.
bench-quick: $(VENV)/installed
	$(PY) -m bench --suite quick --json build/bench-quick.json

bench: $(VENV)/installed
	$(PY) -m bench --suite standard --json build/bench.json

bench-full: $(VENV)/installed
	$(PY) -m bench --suite full --json build/bench-full.json

# One stream, pools and the start of a process beside their peers: half a minute.
bench-runtime: $(VENV)/installed
	mkdir -p build
	$(PY) -m bench.runtime --json build/bench-runtime.json

# Training: the loop beside its network, neuralforecast's LSTM on the same work (NEURALFORECAST=PATH/python, an
# interpreter that has it), two processes. Many minutes, for two cores that do nothing else.
NEURALFORECAST ?=
bench-training: $(VENV)/installed
	$(PY) -m bench.training --neuralforecast "$(NEURALFORECAST)" --json build/bench-training.json

# Per-sample gradients and ensembles by torch.func beside loops: time and memory, two minutes.
bench-samples: $(VENV)/installed
	$(PY) -m bench.samples --threads 1,2
	$(PY) -m bench.samples --memory

# bfloat16 beside our float32 and torch's bfloat16, and the errors of each: a few minutes.
bench-half-width: $(VENV)/installed
	$(PY) -m bench.half_width --threads 1,2 --json build/bench-half-width.json

# The readers of model files and of states, each for so many seconds. What reached new code stays in build/fuzz.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/installed
	$(PIP) atheris==3.0.0
	$(PY) tests/format/fuzz_readers.py model $(FUZZ_SECONDS) build/fuzz
	$(PY) tests/format/fuzz_readers.py state $(FUZZ_SECONDS) build/fuzz

# Random calls of the engine beside the reference, from the first case of the day on or from FUZZ_SEED.
FUZZ_SEED ?=
fuzz-engine: $(VENV)/installed
	$(PY) tests/native/fuzz_engine.py --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

# The core with sanitizers, in a folder of its own, and the native tests on it; the engine's threads in plain C++; and
# what 100,000 calls leave behind. docs/testing.md has the times.
sanitized: $(VENV)/installed
	$(VENV)/bin/cmake -S . -B build/sanitize -G Ninja -DPython_EXECUTABLE="$(CURDIR)/$(PY)" \
		-DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(VENV)/bin/ninja" -DGATEWISE_WIDE=ON -DGATEWISE_SANITIZE=address,undefined
	$(VENV)/bin/cmake --build build/sanitize

sanitize: sanitized
	tests/sanitized/run -m pytest -q -p left_out tests/native tests/contract tests/runtime

sanitize-threads: $(VENV)/tools
	$(VENV)/bin/cmake -S tests/cpp -B build/threads -G Ninja \
		-DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(VENV)/bin/ninja" -DGATEWISE_SANITIZE=thread
	$(VENV)/bin/cmake --build build/threads --target races
	TSAN_OPTIONS=halt_on_error=1 build/threads/races

leaks: $(VENV)/installed
	$(PY) tests/native/leaking_calls.py 100000

# dist/ with the sdist and the wheel of each of these Pythons, checked and tested; Linux only. cibuildwheel reads its
# configuration, which other machines build by.
WHEEL_PYTHONS ?= $(PYTHON)
wheels: $(VENV)/installed
	$(PIP) -r tests/wheels/tools.txt
	$(VENV)/bin/cibuildwheel --print-build-identifiers --platform linux --archs x86_64,aarch64
	$(VENV)/bin/cibuildwheel --print-build-identifiers --platform macos --archs arm64
	$(PY) tests/wheels/make_wheels.py $(WHEEL_PYTHONS)

clean:
	rm -rf $(VENV) build dist

# The native core comes before the large downloads, so that a missing compiler is told at once. GATEWISE_WIDE adds the
# 16-lane kernels on AVX2 instructions, so that the tests can compare two instruction sets to the bit.
$(VENV)/installed: constraints.txt $(VENV)/native
	$(PIP) -r constraints.txt
	touch $@

$(VENV)/native: $(NATIVE) $(VENV)/tools
	$(PIP) --no-build-isolation --no-deps -Ccmake.define.GATEWISE_WIDE=ON -Ccmake.define.GATEWISE_TESTS=ON --editable .
	touch $@

$(VENV)/tools: constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("gatewise needs Python 3.11 or newer, and " + sys.executable + " is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) scikit-build-core nanobind cmake ninja ruff clang-format
	touch $@
