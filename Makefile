# Two commands matter: `make demo` shows the walk, `make test` runs every test.
# Nothing is installed on the machine: Debian's programs are fetched and unpacked below target/deb.

CARGO ?= cargo
export PORTOLAN_DEB_BIN := $(CURDIR)/target/deb/bin
export PORTOLAN_IPTABLES_DIR := $(CURDIR)/target/deb/bin
BIN := target/debug/portolan

.PHONY: demo test deps build soak bench package sweep clean

demo: deps build
	$(BIN) walk

deps:
	scripts/fetch-debs.sh

build:
	$(CARGO) build --locked --bin portolan

# Quick tests first: the pure rooms tell within seconds; namespaces, daemons and labs come last.
test: deps
	scripts/test.sh

# The walk and the deaths again and again; ROUNDS=N.
soak: deps
	scripts/soak.sh

bench: deps
	scripts/bench.sh

# One file that runs on any Linux of this architecture, and its archive; release profile, so it takes a while.
package:
	scripts/package.sh

# Clears what a crashed test left: namespaces and folders that carry our prefixes.
sweep:
	scripts/sweep.sh

clean:
	rm -rf target
