#!/usr/bin/env bash
# What stable cannot show of the few unsafe blocks: Miri over those that it can run, the address sanitizer over the
# kernels and the parser. Needs a nightly toolchain with miri (rustup component add miri rust-src --toolchain nightly).
#
#     scripts/sanitize.sh [miri|address]
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu

miri() {
    # A map of a file and Oniguruma are foreign calls, which Miri cannot follow; what is left is all other unsafe of
    # format (packing), and of runtime the buffers that threads share, the pool, the cache and the matrix driver.
    # Isolation is off because a test may ask for the time; the seeds are orders of threads.
    export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-many-seeds=0..4"
    cargo +nightly miri test -p nanoserve-format --lib -- encoding:: panel:: q8:: schema:: spec:: header:: merge_alike
    cargo +nightly miri test -p nanoserve-runtime --lib -- cpu::disjoint:: cpu::pool:: cpu::cache:: cpu::matrix::
}

address() {
    # Leaks are not looked for: a program's statics count as such.
    export RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0
    cargo +nightly test -p nanoserve-format -p nanoserve-runtime --lib --target "$target"
    cargo +nightly test -p nanoserve-tests --test hostile --target "$target" -- --skip a_hundred_thousand
}

case "${1:-all}" in
    miri) miri ;;
    address) address ;;
    all) miri && address ;;
    *) echo "scripts/sanitize.sh [miri|address]" >&2; exit 2 ;;
esac
