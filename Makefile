# Thin: every target is a verb of `cargo xtask` (xtask/src). Nothing else is needed but a Rust toolchain and
# Debian; what is missing is installed by the verb itself.

.PHONY: demo test emulate bench bench-trace docs tidy cargo
VIDEO ?=

demo: cargo
	@cargo xtask demo $(if $(VIDEO),--video "$(VIDEO)")

test: cargo
	@cargo xtask test

# Tests that need a kernel which seals TLS records, in an emulated machine; not part of `test`.
emulate: cargo
	@cargo xtask emulate

bench: cargo
	@cargo xtask bench
	@cargo xtask bench mixed
	@cargo xtask bench start
	@cargo xtask bench load
	@cargo xtask bench http3
	@cargo xtask bench handshakes
	@cargo xtask bench disk
	@cargo xtask bench idle

bench-trace: cargo
	@cargo xtask bench trace

docs: cargo
	@cargo xtask docs

tidy: cargo
	@cargo xtask tidy

cargo:
	@command -v cargo >/dev/null 2>&1 || { \
	  echo "cargo is not found. Install a Rust toolchain (1.90 or later) with rustup, see https://rustup.rs,"; \
	  echo "open a new shell, and try again."; exit 1; }
