#!/usr/bin/env bash
# What stable cannot show of the few unsafe blocks: Miri over those that it can run, the address sanitizer over the
# kernels and the parser. Needs a nightly toolchain with miri (rustup component add miri rust-src --toolchain nightly).
#
#     scripts/sanitize.sh [miri|address]
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu

miri() {
    # A map of a file, Oniguruma and the wide kernels' instructions are what Miri cannot follow; what is left is packing
    # in format, and in runtime the buffers that threads share and the pool. One test of scales goes through all of f16.
    export MIRIFLAGS=-Zmiri-disable-isolation
    cargo +nightly miri test -p nanoserve-format --lib -- encoding:: panel:: q8:: schema:: spec:: --skip scale_never
    cargo +nightly miri test -p nanoserve-runtime --lib -- cpu::disjoint:: cpu::lines:: cpu::pool::
}

address() {
    # Leaks are not looked for: a program's statics count as such. One test asks for more memory than there is.
    export RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
    cargo +nightly test -p nanoserve-format -p nanoserve-tokenizer -p nanoserve-runtime --lib --target "$target"
    cargo +nightly test -p nanoserve-tests --test hostile --target "$target" -- --skip a_hundred_thousand
}

case "${1:-all}" in
    miri) miri ;;
    address) address ;;
    # Not joined by &&, under which a failure inside a function would not end the script.
    all)
        miri
        address
        ;;
    *) echo "scripts/sanitize.sh [miri|address]" >&2; exit 2 ;;
esac
