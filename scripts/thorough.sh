#!/usr/bin/env bash
# Runs in full the tests of which the gate does a part: every fixture on emulated kernels for GPUs, the plain kernels on
# every number of threads, five times as many random changes to files, 200 conversions killed and 200 interrupted.
#
#     scripts/thorough.sh [cargo test's options and filters]
set -euo pipefail
cd "$(dirname "$0")/.."

NANOSERVE_TESTS=all exec cargo test -p nanoserve-tests --locked --test cuda_ladder --test fuzz_smoke --test hostile \
    --test killed --test reference --test switches "$@"
