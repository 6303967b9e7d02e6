# `make` lists the targets. `make up` and `make test` are all that a newcomer needs: they install what they miss,
# into .tools, which git ignores.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO      ?= go
ARGS    ?=

CHDB_VERSION := 26.7.3-stable.1
platform     := $(shell uname -s)/$(shell uname -m)
chdb_Linux/x86_64  := lib-linux-x64-gnu
chdb_Linux/aarch64 := lib-linux-arm64-gnu
chdb_Darwin/x86_64 := lib-darwin-x64
chdb_Darwin/arm64  := lib-darwin-arm64
chdb         := $(chdb_$(platform))
# One file per version, so that another version is installed over the old one.
chdb_done    := .tools/chdb-$(CHDB_VERSION)
kafka_done   := .tools/kafka/$(shell cksum < test/kafka/pom.xml | cut -d' ' -f1)

lint := $(GO) tool -modfile=.ci/lint.mod golangci-lint

## up: run everything here, in the foreground, with embedded Kafka, registry and ClickHouse; ARGS="--help" lists flags
.PHONY: up
up: tools build
	exec bin/counterfoil up $(ARGS)

## build: build bin/counterfoil
.PHONY: build
build: need-go
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/counterfoil ./cmd/counterfoil

## test: run all tests, on the embedded Kafka and ClickHouse
.PHONY: test
TESTS ?= ./...
test: need-go tools
	$(GO) test $(TESTFLAGS) $(TESTS)

## test-kafka: run the tests that a real broker can tell more about, on Apache Kafka 4.3.1 (needs Java 17 and Maven)
.PHONY: test-kafka
KAFKA_TESTS ?= ./ingest ./processors ./sinks/... ./test/e2e ./test/faults ./test/stack
# What is about ClickHouse alone, about HTTP alone or about versions of ours is the same on any broker.
KAFKA_SKIP  ?= Shard|Upgrade|Analyst|FindCalls|BuyingReport|Migrate|Clock|Silent|Limits|Spelt|Token
test-kafka: need-go tools tools-kafka
	TEST_KAFKA=apache $(GO) test -count=1 -timeout 30m -p 2 -skip '$(KAFKA_SKIP)' $(TESTFLAGS) $(KAFKA_TESTS)

## test-containers: run the tests of the roles on Kafka and ClickHouse in containers; skips them where no Docker daemon answers
.PHONY: test-containers
SYSTEM_TESTS := ./test/conformance ./test/e2e ./test/faults
test-containers: need-go
	TEST_KAFKA=containers $(GO) test -count=1 -timeout 60m -p 1 $(TESTFLAGS) ./ingest ./processors ./sinks/... $(SYSTEM_TESTS)

## test-sharded: run the tests of the whole product on a ClickHouse cluster of two shards
.PHONY: test-sharded
test-sharded: need-go tools
	TEST_CLICKHOUSE=sharded $(GO) test -count=1 -timeout 60m -p 1 $(TESTFLAGS) $(SYSTEM_TESTS)

## test-given: run the tests on the servers of KAFKA_BROKERS, SCHEMA_REGISTRY_URL and CLICKHOUSE_ADDR, which nobody else may use meanwhile
.PHONY: test-given
test-given: need-go tools
	$(GO) test -count=1 -timeout 60m -p 1 $(TESTFLAGS) ./ingest ./processors ./sinks/... $(SYSTEM_TESTS)

## race: run all tests with the race detector
.PHONY: race
race:
	$(MAKE) test TESTFLAGS="-race $(TESTFLAGS)"

## fuzz: run each fuzz target for FUZZTIME (60s)
.PHONY: fuzz
FUZZTIME ?= 60s
fuzz: need-go
	@grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
	    echo "== $$(dirname "$$file") $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" < /dev/null; \
	  done; \
	done

## bench: print this machine's figures beside what they aim at (BENCH selects by name, TEST_KAFKA=apache the broker)
.PHONY: bench
BENCH ?= .
bench: need-go tools $(if $(filter apache,$(TEST_KAFKA)),tools-kafka)
	{ $(GO) test -run '^$$' -bench '$(BENCH)' -timeout 30m -p 1 ./ingest/... ./processors/... ./schemas/... ./sinks/... && \
	  $(GO) test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 60m ./test/bench; } | $(GO) run ./test/bench/report

## soak: the fault and causality tests at their full counts, on Apache Kafka where they can (takes hours); SOAK_FOR=30m, or FAULTS=200 ITEMS=1000000: one long run of faults (TEST_KAFKA=apache)
.PHONY: soak
ifneq ($(SOAK_FOR)$(FAULTS)$(ITEMS),)
soak: need-go tools $(if $(filter apache,$(TEST_KAFKA)),tools-kafka)
	SOAK=1 $(GO) test -count=1 -timeout 0 -v $(TESTFLAGS) -run 'TestSoak$$' ./test/faults
else
soak: need-go tools tools-kafka
	SOAK=1 $(GO) test -count=1 -timeout 12h -p 1 -v $(TESTFLAGS) ./test/...
	SOAK=1 TEST_KAFKA=apache $(GO) test -count=1 -timeout 12h -p 1 -v $(TESTFLAGS) ./test/...
	CAUSAL_PAIRS=10000 TEST_KAFKA=apache $(GO) test -count=1 -timeout 12h -v $(TESTFLAGS) -run Causality ./processors
endif

## prove: take away each guard of the product in turn and show that a test notices (PROVE selects by name; all take half an hour)
.PHONY: prove
PROVE ?= .
prove: need-go tools tools-kafka
	$(GO) run ./test/prove -run '$(PROVE)'

## lint: check the formatting, vet, and run golangci-lint
.PHONY: lint
lint: need-go
	@unformatted=$$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 -r gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(lint) run ./...

## tools: install the ClickHouse engine for this platform (npm), unless CLICKHOUSE_ADDR or LIBCHDB says what to use
.PHONY: tools
ifneq ($(CLICKHOUSE_ADDR)$(LIBCHDB),)
tools:
	@true
else ifeq ($(chdb),)
tools:
	@command -v clickhouse > /dev/null || { echo "There is no embedded ClickHouse for $(platform). Put a clickhouse binary on the PATH, or set CLICKHOUSE_ADDR to a server." >&2; exit 1; }
else
tools: $(chdb_done)
endif

$(chdb_done):
	@command -v npm > /dev/null || { echo "npm is missing: it installs the embedded ClickHouse. Install Node.js 18 or later (Debian: apt-get install npm; macOS: brew install node), or set CLICKHOUSE_ADDR to a server, or LIBCHDB to a libchdb.so." >&2; exit 1; }
	@echo "installing ClickHouse $(CHDB_VERSION) for $(platform) into .tools (570 MB)"
	@mkdir -p .tools
	npm install --prefix .tools --no-save --no-package-lock --no-audit --no-fund --loglevel=error @chdb/$(chdb)@$(CHDB_VERSION)
	@rm -f .tools/chdb-* && touch $@

## tools-kafka: install Apache Kafka for `make test-kafka` (Maven)
.PHONY: tools-kafka
tools-kafka: $(kafka_done)

$(kafka_done):
	@command -v java > /dev/null || { echo "java is missing: Apache Kafka needs Java 17 or later (Debian: apt-get install openjdk-17-jdk-headless maven; macOS: brew install openjdk@17 maven)." >&2; exit 1; }
	@command -v mvn > /dev/null || { echo "mvn is missing: it installs Apache Kafka (Debian: apt-get install maven; macOS: brew install maven)." >&2; exit 1; }
	@echo "installing Apache Kafka into .tools/kafka"
	@rm -rf .tools/kafka && mkdir -p .tools/kafka
	mvn -q -B -Dstyle.color=never -f test/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.tools/kafka/libs -DincludeScope=runtime
	@touch $@

.PHONY: need-go
need-go:
	@command -v $(GO) > /dev/null || { echo "Go is missing: install Go 1.26 or later from https://go.dev/dl." >&2; exit 1; }

## clean: remove what make has built and installed; .counterfoil, the data of make up, stays
.PHONY: clean
clean:
	rm -rf bin .tools

## help: list the targets
.PHONY: help
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST) | awk -F': ' '{ printf "  make %-16s %s\n", $$1, substr($$0, length($$1) + 3) }'
