#!/usr/bin/env bash
# Fails where a crate depends on what it must not know. Reads Cargo's own tree of dependencies and builds nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

wrong=0

# The names of all packages that a crate is linked with, its own among them.
linked() {
    cargo tree --locked --package "$1" --edges normal,no-proc-macro --prefix none --format '{p}' | cut -d ' ' -f 1 |
        sort -u
}

# forbid CRATE REASON NAME...: the crate is linked with no package that one of the names, each a pattern, matches.
forbid() {
    local crate=$1 reason=$2 tree found name
    shift 2
    # Stands alone so that a failure of Cargo ends the script.
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

exit $wrong
