PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
FILES := pyproject.toml constraints.txt

.PHONY: help train test check fix learn bench docs browser clean

help:
	@echo "make train   one trained policy on a real task, from nothing (about a minute of training)"
	@echo "make test    the whole suite, from nothing"
	@echo "make check   format, lint, types, fast tests"
	@echo "make learn   the learning gate: fresh seeds of every method; and tests that train"
	@echo "make browser the report in headless Chromium, where one is on the path; screenshots in build/browser"
	@echo "make docs    the documentation in build/site, its examples executed"
	@echo "make bench   speed beside peers, which live in their own environment (benchmarks/README.md)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What `make train` needs: the core and Gymnasium's MuJoCo.
$(VENV)/.light: $(FILES) | $(BIN)/python
	@echo "installing into $(VENV) ..."
	$(PIP) install -c constraints.txt -e ".[mujoco]"
	@touch $@

# What tests need: every suite, and the tools. Groups need a pip that knows them.
$(VENV)/.full: $(FILES) | $(BIN)/python
	@echo "installing into $(VENV) ..."
	$(PIP) install -c constraints.txt pip
	$(PIP) install -c constraints.txt -e ".[mujoco,box2d,envpool,gymnax,minigrid,plots]" --group dev
	@touch $@ $(VENV)/.light

train: $(VENV)/.light
	$(BIN)/surefoot train trpo --env HalfCheetah-v5 --steps 1_000_000 --seed 0

test: $(VENV)/.full
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.full
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/basedpyright
	$(BIN)/python -m pytest -n 2 -m "not learn and not slow"

fix: $(VENV)/.full
	$(BIN)/ruff format src tests benchmarks docs
	$(BIN)/ruff check --fix src tests benchmarks docs

learn: $(VENV)/.full
	$(BIN)/python -m pytest -n 2 -m learn
	$(BIN)/python benchmarks/gate.py run

# The report as a reader sees it. Needs a Chromium on the path, and says so where there is none.
browser: $(VENV)/.full
	$(BIN)/python tests/browser.py --out build/browser

# Peers for benchmarks only, in an environment of their own.
.venvs/peers/.done:
	$(PYTHON) -m venv .venvs/peers
	.venvs/peers/bin/python -m pip install -q torch==2.13.0
	.venvs/peers/bin/python -m pip install -q stable-baselines3==2.9.2 sb3-contrib==2.9.2 "gymnasium[mujoco]==1.4.0"
	@touch $@

# What the statistics of compare are checked against.
.venvs/rliable/.done:
	$(PYTHON) -m venv .venvs/rliable
	.venvs/rliable/bin/python -m pip install -q rliable==1.2.0 arch==7.2.0 pandas==2.3.3 numpy==2.4.6 scipy==1.17.1
	@touch $@

bench: $(VENV)/.full .venvs/peers/.done
	$(BIN)/python benchmarks/throughput.py --peers .venvs/peers/bin/python

# The documentation's tools come on top of everything else: its examples are run.
$(VENV)/.docs: $(FILES) | $(VENV)/.full
	$(PIP) install -c constraints.txt --group docs
	@touch $@

docs: $(VENV)/.full $(VENV)/.docs
	$(BIN)/python docs/site/examples.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf $(VENV) .venvs build .pytest_cache .ruff_cache
