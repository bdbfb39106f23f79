#!/usr/bin/env bash
# Builds what is shipped: one static program for each processor, their licences, and SHA-256 sums, in one folder.
#
#     scripts/dist.sh [--twice] [--target x86_64|aarch64] [OUT]        OUT is target/dist where none is given
#
# The programs need no library, no loader and no file but a model. The same sources, Rust and C compiler give the same
# bytes in any folder and at any time: paths are rewritten, dependencies are those of Cargo.lock, and nothing notes the
# time. --twice shows it: it builds from a second copy of the sources, in another folder, and compares.
#
# Needs rustup (for the musl targets, whose C library is linked in) and Python's pip (for a C compiler that is the same
# everywhere, and builds the two C libraries for both processors). Where a musl target cannot be had, the program is
# linked with all of glibc, and this says so. CUDA is left out: its driver is a shared library, which a static program
# cannot load.
set -euo pipefail
cd "$(dirname "$0")/.."

twice= out= targets=
while [ $# -gt 0 ]; do
    case $1 in
        --twice) twice=1 ;;
        --target) targets="$targets ${2:?a target is missing}"; shift ;;
        -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 2 ;;
        *) out=$1 ;;
    esac
    shift
done
mkdir -p "${out:=target/dist}"
out=$(cd "$out" && pwd)

. scripts/zig.sh
zig_fetch

# Builds the sources in a folder for a target: build FOLDER TARGET.
build() {
    local folder=$1 target=$2 name=${2//-/_} cargo=${CARGO_HOME:-$HOME/.cargo} flags=
    flags="--remap-path-prefix=$folder=/nanoserve --remap-path-prefix=$cargo=/cargo -C target-feature=+crt-static"
    export SOURCE_DATE_EPOCH=0
    case $target in
        *-musl)
            zig_for "$target" "${target/-unknown/}" -g0 -fno-sanitize=all
            export "CFLAGS_$name=-ffile-prefix-map=$folder=/nanoserve -ffile-prefix-map=$cargo=/cargo"
            export "CARGO_TARGET_${name^^}_LINKER=rust-lld"
            # Functions that are the same bytes become one.
            flags="$flags -C link-self-contained=yes -C link-arg=--icf=all"
            ;;
        aarch64-*-gnu) export "CARGO_TARGET_${name^^}_LINKER=aarch64-linux-gnu-gcc" ;;
    esac
    (cd "$folder" && RUSTFLAGS=$flags cargo build --locked --profile dist --no-default-features -p nanoserve-cli \
        --bin nanoserve --target "$target")
}

# The musl target of a processor, or the glibc one where rustup has none.
target_of() {
    if rustup target add "$1-unknown-linux-musl" >/dev/null 2>&1; then
        echo "$1-unknown-linux-musl"
    else
        echo "$1: no musl target here; linked with glibc" >&2
        rustup target add "$1-unknown-linux-gnu" >/dev/null 2>&1 || true
        echo "$1-unknown-linux-gnu"
    fi
}

built=()
for processor in ${targets:-x86_64 aarch64}; do
    target=$(target_of "$processor")
    built+=(--target "$target")
    build "$PWD" "$target"
    program=$out/nanoserve-$processor-linux
    cp "target/$target/dist/nanoserve" "$program"
    # Cargo forgets `strip` of a profile that names the program's own package among its exceptions.
    ! readelf -SW "$program" | grep -q ' \.symtab ' || { echo "error: $program has symbols" >&2; exit 1; }
    size=$(stat -c %s "$program")
    echo "$program: $target, $size bytes"
    [ "$size" -lt 15000000 ] || { echo "error: it is 15 MB or more" >&2; exit 1; }
    if [ -n "$twice" ]; then
        other=$(mktemp -d)/somewhere-else
        mkdir "$other"
        git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$other"
        build "$other" "$target"
        cmp "$program" "$other/target/$target/dist/nanoserve"
        echo "$program: the same bytes from $other"
        rm -r "$(dirname "$other")"
    fi
done
scripts/licences.py --no-default-features "${built[@]}" >"$out/LICENCES.txt"
cp LICENSE-MIT LICENSE-APACHE "$out/"
(cd "$out" && sha256sum -- nanoserve-*-linux LICENCES.txt LICENSE-* >SHA256SUMS && cat SHA256SUMS)
