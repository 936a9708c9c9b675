PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PARALLEL := -n logical --maxprocesses 4 --dist loadgroup

.PHONY: demo test check

# Searches sharing plans for MiniLM on BBC News and writes runs/bbc-news/report.html.
demo: $(INSTALLED)
	$(BIN)/python examples/bbc-news/prepare.py
	$(BIN)/sharetune search examples/bbc-news/study.yaml $(if $(wildcard runs/bbc-news/study.db),--resume)

# The default suite, `make check` included. `make test MARK=slow` runs the slow tests.
test: $(INSTALLED)
	$(if $(MARK),,$(MAKE) check)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(if $(MARK),-m $(MARK),$(PARALLEL))

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,dev]'
	touch $@
