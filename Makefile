# Two commands for newcomers:
#
#   make demo    create .venv, install, and run the main job (find neurons, steer with them)
#   make test    create .venv, install, and run linters, type check and every test
#
# Both may be run again at any time: what is done already is not done twice.
#   make check   linters and type check only        make style   reformat, fix, renew tables
#   make dev     only create the environment        make clean   remove it, and caches
#   make real    lay out three small pretrained models (4 GB in the user's cache, or in
#                NEURONSTEER_MODELS), and run the tests and the benchmark that need them
#   make papers  measure the claims of the papers on them (a night; goes on where it was stopped),
#                and write docs/reproductions.md
#   make exhaustive   interrupt a collection at every point, read 100,000 damaged files, and fail
#                     500 requests to the Hub (an hour)
#   make docs    build the documentation site into site/ (offline; a broken link is an error)
#   make wheel   build the package, install it elsewhere, and run its demo there
#   make screenshots   take the pictures of the page again, with gemma (needs chromium)
#   make test-vllm   create .venv-vllm (3.4 GB) and run the tests of serving with vLLM on the CPU
#
# PYTHON=python3.12 chooses the interpreter, VENV=path the environment, and PIP_INSTALL adds options
# to pip, for instance the address of an index with CPU-only builds of torch.

SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
VLLM_VENV ?= .venv-vllm
PIP_INSTALL ?=
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo docs exhaustive papers real screenshots test test-vllm check style clean dev wheel

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# The environment. Python itself is the only thing that must be there already.
$(VENV)/.created:
	@bash tools/make_venv.sh "$(VENV)" "$(PYTHON)"
	@touch $@

# What `make demo` needs, and what a contributor needs. A stamp is written only after pip succeeded,
# so an interrupted installation is simply continued.
$(VENV)/.ready-demo: $(VENV)/.created pyproject.toml constraints.txt
	$(PY) -m pip install --quiet $(PIP_INSTALL) -c constraints.txt -e '.[langid]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.created pyproject.toml constraints.txt
	$(PY) -m pip install --quiet $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.ready-demo

$(VENV)/.ready-docs: $(VENV)/.created pyproject.toml constraints.txt
	$(PY) -m pip install --quiet $(PIP_INSTALL) -c constraints.txt -e '.[docs]'
	@touch $@

# Pretrained models come as GGUF files; gguf reads them, and nothing else here needs it.
$(VENV)/.ready-real: $(VENV)/.ready-dev
	$(PY) -m pip install --quiet $(PIP_INSTALL) -c constraints.txt gguf==0.19.0
	@touch $@

dev: $(VENV)/.ready-dev

demo: $(VENV)/.ready-demo
	@$(PY) -m neuronsteer.cli demo

# NO_MKDOCS_2_WARNING: an advertisement of another program, on every build.
docs: $(VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@echo "The documentation is in site/index.html."

screenshots: $(VENV)/.ready-real
	$(PY) tools/real_models.py gemma
	$(PY) tools/screenshots.py docs/images --model gemma

wheel: $(VENV)/.ready-dev
	$(PY) tools/try_wheel.py

check: $(VENV)/.ready-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m basedpyright --pythonpath $(PY)

# One torch thread per worker: more only makes the workers wait for one another.
test: check
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(PY) -m pytest -n $(WORKERS) -m "not real and not exhaustive"

exhaustive: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(PY) -m pytest -n $(WORKERS) -m exhaustive
	NEURONSTEER_MUTATIONS=100000 OMP_NUM_THREADS=1 $(PY) -m pytest tests/artifacts/test_fuzz.py

real: $(VENV)/.ready-real
	$(PY) tools/real_models.py
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(PY) -m pytest tests/real
	$(PY) benchmarks/real_models.py

# Each script measures what docs/reproductions/ does not hold yet, in at most 40 minutes on two cores.
PAPERS := lape kojima language_arithmetic ternary culture aya amplification relations plnd crane directions text_amount code_languages

papers: $(VENV)/.ready-real
	$(PY) tools/real_models.py
	@for paper in $(PAPERS); do $(PY) benchmarks/papers/$$paper.py || exit 1; done
	$(PY) benchmarks/papers/page.py

# vLLM pins versions of its own, so it gets an environment of its own. One engine at a time, one
# thread: it is about being right, not about speed.
$(VLLM_VENV)/.ready: pyproject.toml tools/make_vllm_venv.sh
	@bash tools/make_venv.sh "$(VLLM_VENV)" "$(PYTHON)"
	PIP_INSTALL="$(PIP_INSTALL)" bash tools/make_vllm_venv.sh "$(VLLM_VENV)"
	@touch $@

test-vllm: $(VLLM_VENV)/.ready
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests_vllm --timeout 1200

style: $(VENV)/.ready-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) tools/architecture_table.py docs/models.md
	$(PY) tools/methods_table.py

clean:
	rm -rf $(VENV) $(VLLM_VENV) site .pytest_cache .ruff_cache .hypothesis
