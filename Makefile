# Two commands from a fresh clone: `make demo` and `make test`. Each makes its own environment, and a second time finds
# it. Another interpreter: `make demo PYTHON=/opt/python3.13/bin/python3`. Options of the demo: `make demo ARGS="--users 50"`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test quick clean linux strace

export PIP_DISABLE_PIP_VERSION_CHECK := 1

ARGS ?=
TOX_ARGS ?=
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
SHIPPED := $(shell find mpy6a sidecar schemas configs -type f -not -name '*.pyc' 2>/dev/null)
# pyenv hides the interpreters that are not selected behind shims that fail; tox is told where they really are.
PYENV := $(or $(PYENV_ROOT),$(shell command -v pyenv >/dev/null 2>&1 && pyenv root))
HIDDEN := $(strip $(foreach minor,11 12 13 14,$(lastword $(wildcard $(PYENV)/versions/3.$(minor).*/bin/python3.$(minor)))))
DISCOVER := $(if $(HIDDEN),--discover $(HIDDEN))

help:
	@echo "make demo   the pipe on real services, killed at random, and audited"
	@echo "make test   everything that decides whether a change is good (tox)"
	@echo "make quick  the inner loop: unit, property and golden tests"
	@echo "make clean  remove what the others made"

demo: .venv/installed.stamp
	.venv/bin/mpy6a demo $(ARGS)

test: .venv-test/installed.stamp strace
	.venv-test/bin/tox run $(TOX_ARGS) $(DISCOVER)

quick: .venv-test/installed.stamp
	.venv-test/bin/tox run -e quick $(DISCOVER)

clean:
	rm -rf .venv .venv-test .tox build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# The package is installed as a user installs it, not as a link, so its sources decide whether that is to be done again.
.venv/installed.stamp: pyproject.toml README.md $(SHIPPED) | linux
	@$(call environment,.venv)
	.venv/bin/python -m pip install --quiet '.[demo]'
	@touch $@

.venv-test/installed.stamp: pyproject.toml | linux
	@$(call environment,.venv-test)
	.venv-test/bin/python -m pip install --quiet --upgrade 'tox>=4.60'
	@touch $@

# Makes the virtual environment $(1) with the first Python >= 3.11 that can, unless it stands and runs.
define environment
if ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then \
    for python in $(PYTHONS); do \
        "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
        "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || { without_venv=$$python; continue; }; \
        found=$$python; break; \
    done; \
    if [ -n "$${found:-}" ]; then \
        echo "$$found -m venv $(1)"; \
        "$$found" -m venv --clear $(1); \
    elif [ -n "$${without_venv:-}" ]; then \
        echo "mpy6a: $$without_venv comes without the venv module: install it (Debian, Ubuntu: apt-get install python3-venv)." >&2; \
        exit 1; \
    else \
        echo "mpy6a: needs Python 3.11 or newer, and found none as $(PYTHONS): install it, or say make PYTHON=/path/to/python3." >&2; \
        exit 1; \
    fi; \
fi
endef

linux:
	@[ "$$(uname -s)" = Linux ] || { echo "mpy6a runs on Linux only; this is $$(uname -s)." >&2; exit 1; }

# One end-to-end test watches the pipe's syncs under strace.
strace: | linux
	@command -v strace >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "apt-get install strace"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends strace; } </dev/null >/dev/null && exit 0; \
	fi; \
	echo "strace is not installed and cannot be installed here: the test that needs it is skipped by name." >&2
