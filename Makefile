# What people type. The work is in scripts/; every target can be run again at any time and then takes seconds.
# `make help` lists them. WRENN_DIR (default /var/lib/wrenn) is where an installation keeps everything.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PREFIX ?= /usr/local
CARGO := scripts/cargo.sh
# Everything but the terminal of the test console is built without npm.
NO_NPM := packages: going on without npm; the test console will have no terminal
DEPS_CONSOLE := scripts/deps.sh console || echo '$(NO_NPM)' >&2

# Lines "target: ## words".
.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "  make %-14s %s\n", $$1, $$2 }'

.PHONY: quickstart
quickstart: ## Set everything up on this machine and run Python in a microVM
	@scripts/quickstart.sh

.PHONY: test
test: ## Install what tests need, and run all of them (as root)
	@scripts/test.sh

.PHONY: test-long
test-long: ## Run the tests that take minutes: h2spec (needs Go), Autobahn, Docker in a guest
	@scripts/test-long.sh

.PHONY: deps
deps: ## Install the Debian packages to build and to run
	@scripts/deps.sh run build && echo 'packages: all there'
	@$(DEPS_CONSOLE)

.PHONY: deps-test
deps-test: ## Install the Debian packages that only tests and `make dev` need
	@scripts/deps.sh test && echo 'packages: all there'

.PHONY: build
build: ## Build wrenn, wrenn-cp, wrenn-agent and envd into builds/
	@scripts/deps.sh build
	@$(DEPS_CONSOLE)
	@scripts/build.sh

.PHONY: build-envd
build-envd: ## Build the static guest agent into builds/envd
	@scripts/deps.sh build
	@scripts/build-envd.sh

.PHONY: docs
docs: ## Build the guide into builds/docs; a server shows it at /docs/guide
	@scripts/build-docs.sh

.PHONY: kernel
kernel: ## Fetch the guest kernel into $WRENN_DIR/kernels
	@scripts/deps.sh run
	@scripts/prepare.sh kernel

.PHONY: images
images: ## Build base images into $WRENN_DIR/images (IMAGE="minimal code-interpreter", or all)
	@scripts/deps.sh run
	@IMAGE="$(IMAGE)" scripts/prepare.sh images

.PHONY: dev
dev: ## Start PostgreSQL, apply migrations, start the control plane
	@scripts/dev.sh

.PHONY: dev-agent
dev-agent: ## Start the host agent, in a terminal of its own (with sudo)
	@scripts/dev-agent.sh

.PHONY: migrate-up
migrate-up: ## Apply the migrations to the database of .env
	@[[ -x builds/wrenn-cp ]] || $(MAKE) build
	@builds/wrenn-cp migrate

.PHONY: check
check: ## Format, lints, dependencies, tidy and unit tests: before every commit
	@scripts/check.sh

.PHONY: tidy
tidy: ## Check the rules about the source, and show how it speaks
	@$(CARGO) test --locked --workspace --quiet --test tidy
	@$(CARGO) run --locked --quiet -p tidy --example figures

.PHONY: deny
deny: ## Check licences, sources and bans of all dependencies
	@scripts/deny.sh

.PHONY: test-data
test-data: ## Prepare the guest kernel and image that tests use
	@scripts/deps.sh run
	@scripts/test-data.sh

.PHONY: lab
lab: ## Make the lab: a VM that plays a host with KVM and device-mapper
	@scripts/deps.sh run build test
	@scripts/lab.sh build

.PHONY: lab-shell
lab-shell: ## A prompt in the lab, as root; what is changed there is gone afterwards
	@scripts/deps.sh run build test
	@scripts/lab.sh shell

.PHONY: test-lab
test-lab: ## Run the suites that need such a host in the lab (part of `make test`)
	@scripts/deps.sh run build test
	@scripts/lab.sh run

.PHONY: test-host
test-host: ## Run the same suites on this machine, which must have KVM and device-mapper
	@scripts/deps.sh run build test
	@scripts/lab.sh host

.PHONY: bench
bench: ## Measure against the bare VMM (ROWS="warm siblings": only those); target/bench/report.json
	@scripts/bench.sh $(ROWS)

.PHONY: fuzz
fuzz: ## Fuzz the parsers of hostile bytes, each for a minute (WRENN_FUZZ_SECONDS)
	@scripts/fuzz.sh

.PHONY: openapi
openapi: ## Write the API document to api/openapi.json
	@scripts/openapi.sh

.PHONY: install
install: ## Install programs and systemd units below PREFIX (/usr/local)
	@scripts/install.sh install "$(PREFIX)"

.PHONY: uninstall
uninstall: ## Remove what `make install` installed; data in WRENN_DIR stays
	@scripts/install.sh uninstall "$(PREFIX)"

.PHONY: clean
clean: ## Remove everything that was built
	@$(CARGO) clean
	@rm -rf builds
