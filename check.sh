#!/usr/bin/env bash
# Everything a change must pass. CONTRIBUTING.md, "Before a change lands".
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo clippy --locked --no-default-features --all-targets -- -D warnings
# Texts without pictures.
step cargo clippy --locked --no-default-features --features embed --all-targets -- -D warnings
step cargo check --locked --features cuda
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps
# The scheduler's locks in the place of real ones: this test alone.
step cargo clippy --locked --no-default-features --features shuttle --test shuttle -- -D warnings
step cargo test --locked --no-default-features --features shuttle --test shuttle
# The store alone: no ONNX Runtime, no tokenizer, no command line. The longest
# tests are the same there; they run once, below.
step cargo test --locked --no-default-features -- --skip power_loss_takes \
  --skip an_operation_that_fails --skip every_bug_is_noticed --skip every_byte_of
# The README's command, last, so that its closing lines are what one sees.
step cargo test --locked
