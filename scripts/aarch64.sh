#!/usr/bin/env bash
# Checks that x86-64 and aarch64 write the same files and compute the same bits of logits.
#
#     scripts/aarch64.sh              compare x86-64 with aarch64
#     scripts/aarch64.sh --tests      then run unit tests on aarch64 as well
#     scripts/aarch64.sh --install    as root on Debian: first install what is missing
#
# Builds `nanoserve` for this machine and, in the folder aarch64 of $CARGO_TARGET_DIR (or target), for aarch64. Runs the
# latter under qemu's user-mode emulation as three processors: one with everything that qemu knows, one of 2019 with a
# dot product of bytes, and one of 2012 without it and without f16 arithmetic. Each converts the demo in q8, f16 and f32,
# and runs prompts with every set of kernels that it has; each side checks the other's files. Files are compared byte by
# byte, answers by all that --json prints except timings and device. Prints one row for each comparison. Exit codes: 0
# every row is PASS; 1 a row is FAIL or a build failed; 2 something is missing.
#
# --install adds arm64 to dpkg's architectures and installs the packages named below from the machine's own sources. It
# removes none. rustc-web goes to /usr/bin; `rustc` still means the rustup toolchain, if there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

packages="rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"
triple=aarch64-unknown-linux-gnu
tests= install=
for option; do
    case $option in
        --tests) tests=1 ;;
        --install) install=1 ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "error: unknown option $option; see --help" >&2; exit 2 ;;
    esac
done

# A compiler that has aarch64's standard library: the usual one (rustup target add), else Debian's.
cross_rustc() {
    local rustc
    for rustc in "$(rustup which rustc 2>/dev/null || command -v rustc)" /usr/bin/rustc; do
        if [ -x "$rustc" ] && [ -d "$("$rustc" --print sysroot)/lib/rustlib/$triple/lib" ]; then
            echo "$rustc"
            return
        fi
    done
    return 1
}
ready() { cross_rustc && command -v cargo qemu-aarch64-static aarch64-linux-gnu-gcc; } >/dev/null

[ "$(uname -m)" = x86_64 ] || { echo "error: this compares x86-64 with aarch64, and runs on x86-64" >&2; exit 2; }
if [ -n "$install" ] && ! ready; then
    [ "$(id -u)" = 0 ] || { echo "error: --install needs root" >&2; exit 2; }
    echo "adding arm64 to dpkg's architectures, installing: $packages"
    dpkg --add-architecture arm64
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-remove --no-install-recommends $packages >/dev/null
fi
ready || { echo "error: missing of: cargo $packages; scripts/aarch64.sh --install gets the packages" >&2; exit 2; }

target=${CARGO_TARGET_DIR:-$PWD/target}
# If Debian's arm64 C library is installed, its loader must be used too. qemu's -L would give the cross compiler's
# loader, and two builds of glibc in one process hang when a thread starts.
qemu="qemu-aarch64-static"
[ -e /lib/ld-linux-aarch64.so.1 ] || qemu+=" -L /usr/aarch64-linux-gnu"
cross() {
    local command=$1
    shift
    env RUSTC="$(cross_rustc)" CARGO_TARGET_DIR="$target/aarch64" CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$qemu" cargo "$command" --locked --target $triple "$@"
}
echo "here:    $(rustc --version)"
echo "aarch64: $("$(cross_rustc)" --version)"
echo "         $(aarch64-linux-gnu-gcc --version | head -1), $($qemu --version | head -1)"
CARGO_TARGET_DIR=$target cargo build --release --locked --quiet -p nanoserve-cli --bin nanoserve || exit 1
cross build --release --quiet -p nanoserve-cli --bin nanoserve || exit 1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
machines="x86-64 aarch64-max aarch64-neoverse-n1 aarch64-cortex-a53"
# The sets of kernels that the emulated machines must find.
declare -A expected=(
    [aarch64-max]="scalar neon dotprod" [aarch64-neoverse-n1]="scalar neon dotprod" [aarch64-cortex-a53]="scalar neon"
)
passed=0 failed=0

# on MACHINE COMMAND ARGUMENTS...: runs a command of `nanoserve` itself, because qemu cannot follow nanoserve-run and its
# like, which exec it.
on() {
    local machine=$1
    shift
    case $machine in
        x86-64) "$target/release/nanoserve" "$@" ;;
        *) QEMU_CPU=${machine#aarch64-} $qemu "$target/aarch64/$triple/release/nanoserve" "$@" ;;
    esac
}

# row WHAT NOTE CONDITION...: PASS where the condition holds
row() {
    local what=$1 note=$2 verdict=FAIL
    shift 2
    if "$@"; then verdict=PASS; passed=$((passed + 1)); else failed=$((failed + 1)); fi
    printf '%s  %-86s %s\n' "$verdict" "$what" "$note"
}

# The answer of a machine without timings and device: ids, text, the hash of the logits. Empty if it fails.
answer() { on "$1" run "${@:2}" --json | sed 's/,"timings":{[^}]*}//; s/,"device":"[^"]*"//'; }
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }

for dtype in q8 f16 f32; do
    for machine in $machines; do
        on "$machine" convert weights/demo "$work/$dtype-$machine.nsv" --dtype $dtype --quiet || true
    done
    ours=$work/$dtype-x86-64.nsv
    for machine in ${machines#* }; do
        theirs=$work/$dtype-$machine.nsv
        row "$dtype file of $machine = of x86-64" "$(stat -c %s "$theirs") bytes" cmp "$ours" "$theirs"
        row "$dtype file of x86-64, --check on $machine" "" on "$machine" inspect "$ours" --check -q
        row "$dtype file of $machine, --check on x86-64" "" on x86-64 inspect "$theirs" --check -q
    done
done

# The sets of kernels that each machine has, the plain one first: the error about an unknown one lists them.
declare -A kernels
for machine in $machines; do
    refusal=$(on "$machine" run "$work/q8-x86-64.nsv" --ids 0 --isa none 2>&1) || true
    kernels[$machine]=$(sed -n 's/.*it can run: //p' <<<"$refusal" | tr -d ,)
    row "kernels of $machine" "${kernels[$machine]}" same "${kernels[$machine]}" "${expected[$machine]:-${kernels[$machine]}}"
done

# Every way to run a prompt must give the answer of this machine's plain kernels, which run the prompt in one piece.
compare() {
    local what=$1 dtype=$2 want got hash machine isa chunk
    shift 2
    want=$(answer x86-64 "$work/$dtype-x86-64.nsv" "$@" --isa scalar) || want=
    for machine in $machines; do
        for isa in ${kernels[$machine]}; do
            for chunk in 256 1; do
                got=$(answer "$machine" "$work/$dtype-$machine.nsv" "$@" --isa "$isa" --chunk $chunk) || got=
                hash=$(sed 's/.*_hash":"//;s/".*//' <<<"$got")
                row "$what, $chunk a step, $machine $isa" "$hash" same "$got" "$want"
            done
        done
    done
}

# One prompt shorter than a tile of tokens and one longer than two blocks of attention; greedy tokens and drawn ones.
short="ROMEO:"
long=$(head -c 500 weights/demo/README.md)
for dtype in q8 f16 f32; do
    for kv in f32 f16; do
        for case in "short 0" "short 0.8" "long 0"; do
            read -r prompt temperature <<<"$case"
            compare "$dtype, kv $kv, $prompt prompt, temperature $temperature" $dtype \
                -p "${!prompt}" -n 16 --kv $kv --temperature "$temperature" --seed 7
        done
    done
done

if [ -n "$tests" ]; then
    # Skips a test that asks the kernel by preadv2, which qemu 7.2 lacks; without it the program always reads ahead.
    skip="--skip load::tests::what_was_just_written_is_cached"
    row "unit tests of nanoserve-format on aarch64" "" cross test --quiet -p nanoserve-format --lib
    row "unit tests of nanoserve-tokenizer on aarch64" "" cross test --quiet -p nanoserve-tokenizer --lib
    # shellcheck disable=SC2086
    row "unit tests of nanoserve-runtime on aarch64" "$skip" cross test --quiet -p nanoserve-runtime --lib -- $skip
fi
echo "$passed PASS, $failed FAIL"
[ $failed = 0 ]
