# Two commands: `make report` and `make test`. Both create .venv and install what is pinned.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
DOCS_STAMP := $(VENV)/.installed-docs
# The oldest transformers that TransformerLens allows, with the versions of its own that it asks for.
OLDEST := .venv-oldest
OLDEST_STAMP := $(OLDEST)/.installed
OLDEST_PINS := transformers==5.9.0 huggingface-hub==1.33.0 tokenizers==0.22.2

.PHONY: report figures test check test-oldest docs bench bench-gpu format install clean

report: $(STAMP)
	$(BIN)/vlm-probe report --out report
	@echo "open file://$(CURDIR)/report/index.html"

# What README and the site show: the report's figures, with the data of each and a manifest, and what the studies say.
# Never edit one.
figures: $(STAMP)
	$(BIN)/vlm-probe report --out report
	rm -rf figures
	cp -R report/figures figures
	$(BIN)/python docs/_ext/what_it_says.py

# Bytecode is kept even where the machine says not to: the package is imported in some forty processes.
test: check
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# What hooks rest on, with the oldest transformers that is promised (pyproject.toml).
test-oldest: $(OLDEST_STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadfile tests/hooked tests/checkpoints

# The site, offline: a warning is an error, and so is an asset that lies elsewhere (docs/_ext/outside_assets.py).
docs: $(DOCS_STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html \
		-d build/docs/doctrees docs build/docs/html
	@echo "open file://$(CURDIR)/build/docs/html/index.html"

# Beside the peers and the limit: benchmarks/results/<machine>.json, and README's table.
bench: $(DEV_STAMP)
	$(BIN)/python benchmarks/suite.py

# The exact 2B and 7B on a card, within ten minutes.
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/real_size.py --device cuda --batches 1 16

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(DEV_STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: asked for by another package it would come with gigabytes of CUDA.
$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

$(OLDEST_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	grep -vE "^(transformers|huggingface-hub|tokenizers)==" constraints.txt > $(OLDEST)/constraints.txt
	printf '%s\n' $(OLDEST_PINS) >> $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c $(OLDEST)/constraints.txt torch
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c $(OLDEST)/constraints.txt -e . \
		anywidget beartype hypothesis nnsight peft pytest pytest-xdist
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) report build dist *.egg-info
