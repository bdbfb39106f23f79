# A C compiler for other targets, for scripts that source this file: zig's, pinned, from Python's registry.
#
#     zig_fetch                    brings it, into target/dist-tools; fails where pip cannot
#     zig_for RUST_TARGET ZIG_TARGET [FLAG...]    makes cc and ar for a target and names them to the crate cc

zig_tools=$PWD/target/dist-tools
ZIG=0.15.1

zig_fetch() {
    mkdir -p "$zig_tools"
    if [ ! -x "$zig_tools/venv/bin/python" ] || [ "$("$zig_tools/venv/bin/python" -m ziglang version)" != $ZIG ]; then
        rm -rf "$zig_tools/venv"
        python3 -m venv "$zig_tools/venv" &&
            "$zig_tools/venv/bin/pip" install --quiet --disable-pip-version-check "ziglang==$ZIG"
    fi
}

zig_for() {
    local rust=$1 target=$2 name=${1//-/_} zig="exec '$zig_tools/venv/bin/python' -m ziglang"
    shift 2
    # cc adds Rust's name of the target, which zig does not know.
    cat >"$zig_tools/cc-$rust" <<END
#!/usr/bin/env bash
words=()
for word; do case \$word in --target=* | -arch | arm64 | -mmacosx-version-min=*) ;; *) words+=("\$word") ;; esac; done
$zig cc -target $target $* "\${words[@]}"
END
    printf '#!/bin/sh\n%s ar "$@"\n' "$zig" >"$zig_tools/ar-$rust"
    chmod +x "$zig_tools/cc-$rust" "$zig_tools/ar-$rust"
    export "CC_$name=$zig_tools/cc-$rust" "AR_$name=$zig_tools/ar-$rust"
}
