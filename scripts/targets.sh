#!/usr/bin/env bash
# Checks that all crates but the tests compile for Windows and for macOS. Nothing is linked, and nothing is run.
#
#     scripts/targets.sh [TARGET...]      x86_64-pc-windows-gnu and aarch64-apple-darwin where none is given
#
# Needs rustup, for the standard library of a target, and Python's pip, for a C compiler that knows it. Exit codes: 0 all
# compile; 1 one does not; 2 what could be looked at compiles, and something cannot be had here.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/zig.sh
zig_fetch >&2 || { echo "pip cannot bring a C compiler here; no target is looked at" >&2; exit 2; }
[ $# -gt 0 ] || set -- x86_64-pc-windows-gnu aarch64-apple-darwin
missing=
for target; do
    case $target in
        x86_64-pc-windows-gnu) c=x86_64-windows-gnu ;;
        aarch64-apple-darwin) c=aarch64-macos ;;
        *) echo "error: no C compiler is known for $target" >&2; exit 1 ;;
    esac
    timeout 120 rustup target add "$target" >/dev/null 2>&1 || {
        echo "$target: rustup cannot bring its standard library here; not looked at" >&2
        missing=1
        continue
    }
    zig_for "$target" $c
    cargo check --locked --target "$target" -p nanoserve-cli || exit 1
    echo "$target: all crates compile"
done
[ -z "$missing" ] || exit 2
