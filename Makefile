# make run | test | lint | check | bench | anvil       (PG=15: test against /usr/lib/postgresql/15/bin)
.DELETE_ON_ERROR:
.PHONY: run test lint check bench anvil install format clean

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
TESTS ?= tests
AT_ONCE ?= 4
export PG

run: install
	@./nightdesk up $(ARGS)

test: install
	@$(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal $(TESTS) $(ARGS)

lint: install
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy .

check: test lint

bench: .venv/bench
	@for script in $$(grep -l __main__ bench/*.py | grep -v /chaos_); do \
		$(BIN)/python -m $$(echo $${script%.py} | tr / .) || exit 1; done

anvil:  # a real Ethereum node for the tests of deposits, where there is npm
	@npm install --silent --no-audit --no-fund --prefix .cache/anvil @foundry-rs/anvil@1.7.1

format: install
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

install: .venv/installed

.venv/installed: requirements.txt requirements-apprise.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Nightdesk needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/bench: .venv/installed requirements-bench.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
