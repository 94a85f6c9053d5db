# Each target is one line: the work is in cargo or in scripts/, which can be read and run by hand.
PREFIX ?= /usr/local

build:   ; @scripts/build
demo:    ; @scripts/demo
test:    ; @scripts/test
bench:   ; @scripts/bench && scripts/bench-plugin && scripts/bench-mpi
install: ; @scripts/install '$(PREFIX)'
dist:    ; @scripts/dist
conformance: ; @scripts/conformance
plugin:  ; cargo build --release -p carrack-spank
packages: ; @scripts/plugin-packages

.PHONY: build demo test bench install dist conformance plugin packages
