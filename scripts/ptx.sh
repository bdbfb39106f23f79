#!/usr/bin/env bash
# Makes the PTX that is embedded where NVRTC is missing, or shows that the committed one is what the kernels' text gives.
#
#     scripts/ptx.sh                  write runtime/src/cuda/ptx
#     scripts/ptx.sh --check          compare with what is committed, write nothing
#     scripts/ptx.sh --only NAME      registers of the kernels whose name has NAME in it, write nothing
#
# Needs no GPU and no driver: NVRTC and ptxas come from pip, pinned, into the folder ptx-tools of $CARGO_TARGET_DIR (or
# target), once. Prints of every kernel, as ptxas compiles the PTX for sm_90, registers a thread, bytes spilled, bytes of
# stack and of static shared memory. Exit codes: 0 all is well; 1 a kernel does not compile, spills, or --check found a
# difference; 2 something is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

check= only=
while [ $# -gt 0 ]; do
    case $1 in
        --check) check=1 ;;
        --only) only=${2:?--only needs a name}; shift ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
    esac
    shift
done

# Newer ones give PTX that a driver of CUDA 13.0 does not take.
version=13.0.88
tools=${CARGO_TARGET_DIR:-$PWD/target}/ptx-tools
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "error: this runs on Linux on x86-64" >&2; exit 2; }
command -v python3 >/dev/null || { echo "error: missing python3" >&2; exit 2; }
if [ ! -e "$tools/$version" ]; then
    rm -rf "$tools"
    python3 -m pip install --quiet --no-deps --disable-pip-version-check --root-user-action=ignore --target "$tools" \
        "nvidia-cuda-nvrtc==$version" "nvidia-cuda-nvcc==$version" ||
        { echo "error: pip could not get nvidia-cuda-nvrtc and nvidia-cuda-nvcc $version" >&2; exit 2; }
    touch "$tools/$version"
fi

TOOLS=$tools/nvidia/cu13 CHECK=$check ONLY=$only exec python3 - <<'PYTHON'
import ctypes, hashlib, os, pathlib, re, subprocess, sys, tempfile

TOOLS = pathlib.Path(os.environ["TOOLS"])
KERNELS = pathlib.Path("runtime/src/cuda/kernels")
PTX = pathlib.Path("runtime/src/cuda/ptx")
# Since Ampere; and Hopper, whose launches may overlap. The PTX version is the oldest that has all that is used, so that
# older drivers take it; ptxas refuses what it does not have.
TARGETS = {"sm_80": "7.4", "sm_90": "7.8"}


def text():
    """The kernels as one text: each include of kernels.cu replaced by the file that it names."""
    include = re.compile(r'^#include "(.+)"\n', re.M)
    return include.sub(lambda m: (KERNELS / m[1]).read_text(), (KERNELS / "kernels.cu").read_text())


def nvrtc():
    # The builtins are looked for beside the loader's own paths: load them first.
    for library in sorted((TOOLS / "lib").glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(TOOLS / "lib/libnvrtc.so.13"))


def compiled(source, target):
    """PTX of the text; exits with the compiler's words where it has an error."""
    lib, program = nvrtc(), ctypes.c_void_p()
    lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture={target.replace('sm', 'compute')}".encode(), b"--std=c++17"]
    failed = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    words = log.value.decode().strip()
    if words:
        print(words, file=sys.stderr)
    if failed:
        sys.exit(1)
    lib.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetPTX(program, ptx)
    return ptx.value.decode()


def embedded(source, target):
    """The PTX as it is committed: without comments and empty lines, the text's hash on its first line."""
    lines = [line.rstrip() for line in compiled(source, target).splitlines()]
    lines = [line for line in lines if line and not line.lstrip().startswith("//")]
    ptx = re.sub(r"^\.version .*$", f".version {TARGETS[target]}", "\n".join(lines), flags=re.M)
    return f"// kernels {hashlib.sha256(source.encode()).hexdigest()}\n{ptx}\n"


def registers(ptx, target):
    """(kernel, registers, spilled bytes, stack, shared) of each, as ptxas says; exits with its words where it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "kernels.ptx"
        file.write_text(ptx)
        command = [TOOLS / "bin/ptxas", "-v", f"-arch={target}", file, "-o", os.environ.get("CUBIN") or "/dev/null"]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        print(run.stderr, file=sys.stderr)
        sys.exit(1)
    rows, name = [], None
    for line in run.stderr.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            name = m[1]
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, spilled = int(m[1]), int(m[2]) + int(m[3])
        elif m := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            rows.append((name, int(m[1]), spilled, stack, int(shared[1]) if shared else 0))
    return rows


source, status = text(), 0
for target in TARGETS:
    ptx = embedded(source, target)
    file = PTX / f"{target}.ptx"
    if os.environ["CHECK"]:
        same = file.exists() and file.read_text() == ptx
        print(f"{'PASS' if same else 'FAIL'}  {file} is what the text gives ({len(ptx)} bytes)")
        status |= not same
    elif not os.environ["ONLY"]:
        PTX.mkdir(exist_ok=True)
        file.write_text(ptx)
        print(f"wrote {file}, {len(ptx)} bytes")
    rows = registers(ptx, target)
    if target == "sm_90":
        print(f"{'kernel':32}{'registers':>10}{'spilled':>10}{'stack':>10}{'shared':>10}")
        for row in sorted(rows):
            if os.environ["ONLY"] in row[0]:
                print(f"{row[0]:32}" + "".join(f"{n:>10}" for n in row[1:]))
    for name, _, spilled, _, _ in rows:
        if spilled:
            print(f"FAIL  {name} spills {spilled} bytes on {target}")
            status = 1
sys.exit(status)
PYTHON
