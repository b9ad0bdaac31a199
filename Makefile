# `make` shows the targets. As root (sudo make …), missing packages are installed on Debian and
# Ubuntu; on other systems, a message says what to install.

VENV := .venv
PYTHON_VENV := $(VENV)/bin/python
PYTEST_ARGS ?=
# The number of test processes. Tests that need the machine alone wait for the others.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
IN_PARALLEL := -n $(JOBS) --dist loadfile
LENGTH ?= long
# Emulated machines at once, each with two processors and 1 GiB.
VM_JOBS ?= 2
FUZZ_SECONDS ?= 600
TRIED_ARGS ?=
GO_VERSIONS ?=
VERDICTS_ARGS ?=
APPLICATIONS_ARGS ?=
CASES ?=

C_SOURCES := $(wildcard bpf/*/*.c bpf/*/*.h bpf/include/*/*.h bpf/include/*/*/*.h \
	tests/programs/*.c tests/programs/*.h tests/programs/*.cpp tests/support/walker/*.c \
	tests/verdicts/programs/*.c tests/verdicts/programs/*.h tests/verdicts/programs/*.cpp tests/verdicts/serving/*.c \
	tests/support/walker/*.h examples/*.c examples/*.cpp examples/*/*.c examples/*/*.cpp)
CFLAGS_DEMO := -O2 -g -Wall -Wextra

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The recipes share one virtual environment and the package manager, so they run one at a time.
.NOTPARALLEL:
.PHONY: help setup demo test test-long test-safety test-vm test-go fuzz lint bench tried verdicts \
	verdicts-applications lost-cases pictures man clean \
	packages-demo packages-test packages-vm packages-lint

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' Makefile

setup: packages-demo $(VENV)/installed ## Install leaktrace and its tools into .venv

demo: setup build/leak ## Trace a small program that leaks (as root)
	@.ci/demo $(VENV)/bin/leaktrace build/leak

test: packages-test setup ## Run all tests (as root, or those that need it are skipped)
	@$(PYTHON_VENV) -m pytest $(IN_PARALLEL) $(PYTEST_ARGS)

test-long: packages-test setup ## Run all tests with every combination (as root; some hours)
	@LEAKTRACE_LENGTH=long $(PYTHON_VENV) -m pytest $(IN_PARALLEL) $(PYTEST_ARGS)

# LENGTH=short: the part of these tests that .ci/run runs.
test-vm: packages-vm setup ## Test on other kernels, in emulated machines (as root; half an hour)
	@LEAKTRACE_LENGTH=$(LENGTH) $(PYTHON_VENV) -m pytest -n $(VM_JOBS) --dist loadgroup tests/vm \
		$(PYTEST_ARGS)

# LENGTH=short: the part of these tests that `make test` runs.
test-safety: packages-test setup ## Test that no program notices (as root; an hour)
	@LEAKTRACE_LENGTH=$(LENGTH) $(PYTHON_VENV) -m pytest tests/safety $(PYTEST_ARGS)

fuzz: packages-test setup ## Fuzz the stack walk in user space (ten minutes: FUZZ_SECONDS=60 is less)
	@LEAKTRACE_FUZZ_SECONDS=$(FUZZ_SECONDS) $(PYTHON_VENV) -m pytest -s \
		tests/unit/unwind/test_walker.py -k sanitizers $(PYTEST_ARGS)

# GO_VERSIONS="1.22.10 1.26.6": others than tests/tried/go_versions.py names.
test-go: packages-test setup ## Run the tests of Go with other versions of Go (as root; ten minutes)
	@$(PYTHON_VENV) tests/tried/go_versions.py $(GO_VERSIONS)

lint: packages-lint setup ## Check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache
	@echo clang-format --dry-run -Werror bpf tests examples
	@clang-format --dry-run -Werror $(C_SOURCES)
	@if command -v shellcheck >/dev/null; then \
		shellcheck .ci/run .ci/demo .ci/install-packages .ci/find-python tests/support/vm/init.sh; \
	fi

bench: packages-test setup ## Measure what tracing costs (as root)
	@for program in tests/bench/bench_*.py; do \
		echo "== $$program"; $(PYTHON_VENV) "$$program" || exit 1; \
	done

# TRIED_ARGS=--install installs the programs that are missing.
tried: setup ## Trace many programs, and write docs/tried-programs.md (as root)
	@$(PYTHON_VENV) tests/tried/try_programs.py $(TRIED_ARGS)

# VERDICTS_ARGS="--only leak_fast --pace fast" traces a part, and writes no page.
verdicts: packages-test setup ## Compare verdicts with the truth, and write docs/verdicts.md (as root; 20 minutes)
	@$(PYTHON_VENV) tests/verdicts/run_corpus.py $(VERDICTS_ARGS)

# APPLICATIONS_ARGS="--minutes 1 --only redis" is less, APPLICATIONS_ARGS=--lost tries that option.
# Needs redis-server, nginx, nodejs, mariadb-server, postgresql; what is not installed is left out,
# and the table says so.
verdicts-applications: packages-test setup ## Verdicts about servers under load, with and without a leak (as root; an hour)
	@$(PYTHON_VENV) tests/verdicts/applications.py $(APPLICATIONS_ARGS)

# CASES: directories of test programs, or files. docs/lost-cases.md says where to get them.
lost-cases: packages-test setup ## Compare --lost with LeakSanitizer and memcheck: CASES="PATH …" (as root; 6 minutes)
	@$(PYTHON_VENV) tests/verdicts/lost_cases.py $(CASES)

pictures: packages-test setup ## Make the pictures in docs/pictures again (as root; two minutes)
	@$(PYTHON_VENV) tests/pictures/make_pictures.py

man: setup ## Rebuild docs/leaktrace.1 from the command line's help
	$(PYTHON_VENV) docs/make_man.py

clean: ## Remove everything that was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests docs -name __pycache__ -prune -exec rm -rf {} +

packages-demo:
	@.ci/install-packages demo

packages-test:
	@.ci/install-packages demo test

packages-vm:
	@.ci/install-packages demo test vm

packages-lint:
	@.ci/install-packages demo lint

# Rebuilt when the dependencies may have changed.
$(VENV)/installed: pyproject.toml | packages-demo
	@echo "installing leaktrace into $(VENV)"
	@python=$$(.ci/find-python) && "$$python" -m venv $(VENV)
	@$(PYTHON_VENV) -m pip install --quiet --quiet --editable '.[dev]'
	@touch $@

build/leak: examples/leak.c
	@mkdir -p build
	$(CC) $(CFLAGS_DEMO) -o $@ $<
