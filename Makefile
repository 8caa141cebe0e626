# `make book` and `make test` are the two commands. Every target that needs the environment makes .venv
# first, or brings it up to the lock; where nothing changed that takes a moment.

SHELL := bash
PYTHON ?= python3
PORT ?= 8000
TOPIC ?= nsa
BIN := .venv/bin
# The steps that `make test` runs; empty means all. `make test STEPS="lint unit"`
STEPS ?=

.DEFAULT_GOAL := help
.PHONY: help install book test test-gpu bench lab read notebooks lint lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: ## make .venv and install the exact lock (the others call it)
	@command -v $(PYTHON) > /dev/null || \
	  { echo "No $(PYTHON) found; MiniSys needs Python 3.11, 3.12 or 3.13 (make book PYTHON=...)"; exit 1; }
	@$(PYTHON) tools/install.py

# After a failed build the pages that were read are forgotten: Sphinx would not warn about them again.
book: install ## build the HTML book into _build/html
	@set -o pipefail; mkdir -p _build; SECONDS=0; \
	$(BIN)/jb build -n -W --keep-going . 2>&1 | tee _build/book.log \
	  || { rm -rf _build/.doctrees; echo "The book has errors: see above, or _build/book.log"; exit 1; }; \
	echo; echo "Built in $$SECONDS s."
	@echo "The book is in _build/html. To read it, open"
	@echo "  $(CURDIR)/_build/html/index.html"
	@echo "or run \`make read\`."

test: install ## run every check; STEPS="lint unit" runs some
	@$(BIN)/python tools/check.py $(STEPS)

test-gpu: install ## run the kernels' tests compiled, on this machine's GPU
	@$(BIN)/python tools/gpu_check.py

bench: install ## measure a topic and write its result file, TOPIC=nsa
	@$(BIN)/minisys bench $(TOPIC)

lab: install ## open the notebooks in JupyterLab, on this machine only
	@$(BIN)/jupyter lab --ip=127.0.0.1 --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

read: | _build/html/index.html ## serve the book on this machine, PORT=8000
	@echo "The book is at http://127.0.0.1:$(PORT)/ (Ctrl-C ends)"
	@$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

_build/html/index.html:
	@$(MAKE) book

notebooks: install ## write and run notebooks from their .py; CHANGED=1: the stale ones, ONLY=name.py: that one
	@$(BIN)/python tools/notebooks.py execute $(if $(CHANGED),--changed) $(ONLY)

lint: install ## ruff and the notebook checks
	@$(BIN)/python tools/check.py lint notebooks

lock: ## write requirements.txt anew from pyproject.toml (needs uv)
	@$(PYTHON) tools/lock.py

clean: ## remove what was built, not .venv
	@rm -rf _build dist book/api/generated .pytest_cache .ruff_cache .hypothesis .jupyter_cache
	@find minisys tests tools notebooks -name __pycache__ -prune -exec rm -rf {} +
