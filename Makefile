# demo: the whole loop on this machine.  install: for your own images.  test: everything.  test-fast: without Label Studio.
# test-long: hours of people labelling in browsers, and a kill at every single request; one of them: make test-long ARGS="-k three-10s".
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# PyTorch 2.13.0's CPU build for Linux x86-64, Python 3.11: same version number, another file. Others get the CUDA build.
TORCH_CPU_HASH := $(shell sed -n 's/^torch-cpu //p' requirements/hashes)

.PHONY: demo install test test-fast test-long lint docs commands format setup setup-service lock clean

demo: setup-service .venv-label-studio/installed
	$(BIN)/python scripts/demo.py $(ARGS)

install: setup-service .venv-label-studio/installed

# Two at a time: those with a real Label Studio one after another, beside them all others. One alone: ARGS="-n 0 -k name".
test: setup lint docs
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-fast: setup-service
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e and not slow" --ignore=tests/e2e --ignore=tests/web/test_openapi.py -n 2 $(ARGS)

test-long: setup
	$(BIN)/python -m pytest -m long $(ARGS)

lint: setup-service
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture

# The pages of docs/ as a site, in site/. A broken link fails.
docs: .venv-docs/installed
	.venv-docs/bin/zensical build --strict

# The options of every command into docs/commands.md; a test fails where it was forgotten.
commands: setup-service
	$(BIN)/python -m docs.generate_commands

format: setup-service
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: setup-service .venv-label-studio/installed .venv-upstream/installed

setup-service: .venv/installed

.venv/installed: requirements/service.txt requirements/cuda.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	# A hash makes pip pass over a CPU build that its own settings offer (find-links): so PyTorch is chosen, then checked.
	@sed -n '/^torch==/,/[^\\]$$/p' requirements/service.txt > .venv/torch.txt
	$(BIN)/pip download --quiet --no-deps --dest .venv/torch "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' .venv/torch.txt)"
	$(BIN)/pip install --quiet --no-deps --require-hashes --no-index --find-links .venv/torch -r .venv/torch.txt
	@rm -r .venv/torch
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/service.txt
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/cuda.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv-label-studio/installed: requirements/label-studio.txt
	$(PYTHON) -m venv .venv-label-studio
	.venv-label-studio/bin/pip install --quiet --no-deps --require-hashes -r requirements/label-studio.txt
	@touch $@

.venv-docs/installed: requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --no-deps --require-hashes -r requirements/docs.txt
	@touch $@

# The upstream server's own packages over ours: its pins cannot be installed beside them in one environment.
.venv-upstream/installed: requirements/upstream.txt .venv/installed
	$(PYTHON) -m venv .venv-upstream
	.venv-upstream/bin/pip install --quiet --no-deps --require-hashes -r requirements/upstream.txt
	@ls -d "$(CURDIR)"/.venv/lib/python*/site-packages > .venv-upstream/ours.pth && echo "$(CURDIR)" >> .venv-upstream/ours.pth
	@mv .venv-upstream/ours.pth .venv-upstream/lib/python*/site-packages/
	@touch $@

lock:
	$(BIN)/pip install --quiet uv
	cat requirements/service.txt requirements/cuda.txt > .venv/compiled.txt  # what is pinned stays, where it can
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate requirements/service.in -o .venv/compiled.txt
	$(BIN)/python requirements/split_cuda.py .venv/compiled.txt requirements/service.txt requirements/cuda.txt --torch-hash $(TORCH_CPU_HASH)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate requirements/label-studio.in -o requirements/label-studio.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --override requirements/upstream-overrides.in requirements/upstream.in -o requirements/upstream.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate requirements/docs.in -o requirements/docs.txt

clean:
	rm -rf .venv .venv-label-studio .venv-upstream .venv-docs site demo-data
