#!/usr/bin/env bash
# Checks the few unsafe blocks with tools that stable lacks: Miri runs those that it can, the address sanitizer the kernels
# and the parser. Needs a nightly toolchain with miri (rustup component add miri rust-src --toolchain nightly).
#
#     scripts/sanitize.sh [miri|address]
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu

miri() {
    # Miri cannot run maps of files, Oniguruma or the wide kernels' instructions. That leaves packing in format, and in
    # runtime the buffers that threads share and the pool. The skipped test of scales goes through all of f16.
    export MIRIFLAGS=-Zmiri-disable-isolation
    cargo +nightly miri test -p nanoserve-format --lib -- encoding:: panel:: q8:: schema:: spec:: --skip scale_never
    cargo +nightly miri test -p nanoserve-runtime --lib -- cpu::disjoint:: cpu::lines:: cpu::pool::
}

address() {
    # Leak detection is off, because statics count as leaks. One test asks for more memory than there is.
    export RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
    cargo +nightly test -p nanoserve-format -p nanoserve-tokenizer -p nanoserve-runtime --lib --target "$target"
    cargo +nightly test -p nanoserve-tests --test hostile --target "$target" -- --skip random_changes
}

case "${1:-all}" in
    miri) miri ;;
    address) address ;;
    # Not joined by &&: then a failure inside a function would not end the script.
    all)
        miri
        address
        ;;
    *) echo "scripts/sanitize.sh [miri|address]" >&2; exit 2 ;;
esac
