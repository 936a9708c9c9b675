PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A process for each core, up to `MOST`; tests of one xdist_group share one of them.
PARALLEL = -n logical --maxprocesses $(MOST) --dist loadgroup
MOST := $(if $(MARK),2,4)

EXAMPLES ?= $(notdir $(patsubst %/prepare.py,%,$(wildcard examples/*/prepare.py)))
SKIPPED := 77
SMALL := --set executor=local --set budget.trials=6 --set space.recipe.steps=20 --set latency.rounds=3

.PHONY: demo examples test check

# Searches sharing plans for a small translator from scratch and writes runs/emoji-names/report.html.
demo: $(INSTALLED)
	$(BIN)/python examples/emoji-names/prepare.py
	$(BIN)/sharetune search examples/emoji-names/study.yaml $(if $(wildcard runs/emoji-names/study.db),--resume)

# Runs every example's study in a small setting; EXAMPLES="digits emoji-names" runs some of them.
# One whose data need a Debian package that is not installed says so and is skipped.
examples: $(EXAMPLES:%=example-%)

example-%: $(INSTALLED)
	rm -rf runs/examples/$*
	$(BIN)/python examples/$*/prepare.py || case $$? in $(SKIPPED)) exit 0 ;; *) exit 1 ;; esac; \
	$(BIN)/sharetune search examples/$*/study.yaml --out runs/examples/$* $(SMALL)

# The default suite, `make check` included. `make test MARK=slow` runs the slow tests.
test: $(INSTALLED)
	$(if $(MARK),,$(MAKE) check)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PARALLEL) $(if $(MARK),-m $(MARK))

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,examples,dev]'
	touch $@
