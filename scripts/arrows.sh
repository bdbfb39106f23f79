#!/usr/bin/env bash
# Fails if a crate, or a folder of the runtime, depends on one that it must not know. Reads Cargo's tree of dependencies
# and the sources, and builds nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

wrong=0

# The names of all packages that a crate is linked with, including its own. `edge`: without its default features.
edge=
linked() {
    cargo tree --locked --package "$1" $edge --edges normal,no-proc-macro --prefix none --format '{p}' | cut -d ' ' -f 1 |
        sort -u
}

# forbid CRATE REASON NAME...: fails if the crate is linked with a package that matches one of the patterns NAME.
forbid() {
    local crate=$1 reason=$2 tree found name
    shift 2
    # A separate assignment, so that a failure of Cargo ends the script.
    tree=$(linked "$crate")
    for name; do
        for found in $(grep -xE "$name" <<<"$tree" | grep -vx "$crate"); do
            echo "error: $crate depends on $found, but $reason (cargo tree -p $crate -i $found)" >&2
            wrong=1
        done
    done
}

forbid nanoserve-format "reading a file's bytes needs no regular expression and no tokenizer" \
    'onig(_sys)?' '(fancy-)?regex(-.*)?' 'tokenizers' 'unicode-normalization.*'
forbid nanoserve-format "it is the lowest crate" 'nanoserve-.*'
forbid nanoserve-tokenizer "of this project it knows the format alone" 'nanoserve-(template|converter|runtime|cli|tests)'
for crate in format tokenizer template converter runtime; do
    forbid "nanoserve-$crate" "only the programs use the network" 'ureq.*' 'rustls.*' 'ring'
done

edge=--no-default-features
for crate in nanoserve-tokenizer nanoserve-runtime; do
    forbid $crate "a compiled tokenizer needs neither the library nor C (feature tokenizer-json)" 'onig(_sys)?' 'tokenizers'
done
edge=

# The folders of the runtime: each may use those before it.
folders=(error backend cpu cuda engine generate chat diagnose)
for folder in $(cd runtime/src && ls -d -- */ | tr -d /); do
    if [[ " ${folders[*]} bin " != *" $folder "* ]]; then
        echo "error: runtime/src/$folder has no place among the folders in scripts/arrows.sh" >&2
        wrong=1
    fi
done
for ((low = 0; low < ${#folders[@]}; low++)); do
    for ((high = low + 1; high < ${#folders[@]}; high++)); do
        found=$(grep -rnE "crate::(\{[^}]*)?\b${folders[high]}\b" "runtime/src/${folders[low]}" --include=*.rs || true)
        if [ -n "$found" ]; then
            echo "error: runtime/src/${folders[low]} knows runtime/src/${folders[high]}, which is above it:" >&2
            echo "$found" >&2
            wrong=1
        fi
    done
done

exit $wrong
