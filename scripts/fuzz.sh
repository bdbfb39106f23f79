#!/usr/bin/env bash
# Fuzzes every target (see tests/src/targets.rs) in turn, SECONDS each (default 120), from the committed seeds
# and what earlier runs have found:
#
#     scripts/fuzz.sh [SECONDS] [TARGET...]
#
# Needs a nightly toolchain, g++ and cargo-fuzz (cargo install cargo-fuzz --locked). Runs under the address sanitizer.
# The input that ended a run is in tests/fuzz/artifacts/TARGET. Copy it to tests/fuzz/seeds/TARGET/found-NAME, where the smoke
# test keeps trying it, and fix the fault. FUZZ_TARGET_DIR says where to build.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-120}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(nsv safetensors gguf config vocabulary tokenizer template)
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 2; }

failed=()
for target in "${targets[@]}"; do
    mkdir -p "tests/fuzz/corpus/$target"
    echo "== $target, $seconds s"
    # 30 s for one input is a hang. For inputs of some kilobytes, a gigabyte in all or 128 MiB at once is too much.
    cargo +nightly fuzz run --fuzz-dir tests/fuzz ${FUZZ_TARGET_DIR:+--target-dir "$FUZZ_TARGET_DIR"} "$target" \
        "tests/fuzz/corpus/$target" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=30 -rss_limit_mb=1024 -malloc_limit_mb=128 -max_len=32768 \
        -print_final_stats=1 -verbosity=1 || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || { echo "ended early: ${failed[*]}" >&2; exit 1; }
