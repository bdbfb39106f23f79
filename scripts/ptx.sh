#!/usr/bin/env bash
# Makes the embedded PTX, which is used where NVRTC is missing, or checks that the committed PTX is what the kernels' text
# gives.
#
#     scripts/ptx.sh                  write runtime/src/cuda/ptx/kernels.ptx
#     scripts/ptx.sh --check          compare with the committed PTX, write nothing
#     scripts/ptx.sh --only NAME      registers of the kernels whose name has NAME in it, write nothing
#
# Needs no GPU and no driver: pip installs pinned versions of NVRTC, ptxas and BLAKE3 once, into the folder ptx-tools of
# $CARGO_TARGET_DIR (or target). Prints the registers per thread and the bytes spilled of every kernel, as ptxas compiles
# the PTX for sm_80 and sm_90. Exit codes: 0 all is well; 1 a kernel does not compile or spills, or --check found a
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

# Newer versions give PTX that a driver of CUDA 13.0 rejects.
version=13.0.88 blake3=1.0.11
tools=${CARGO_TARGET_DIR:-$PWD/target}/ptx-tools
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "error: this runs on Linux on x86-64" >&2; exit 2; }
command -v python3 >/dev/null || { echo "error: missing python3" >&2; exit 2; }
if [ ! -e "$tools/$version-$blake3" ]; then
    rm -rf "$tools"
    python3 -m pip install --quiet --no-deps --disable-pip-version-check --root-user-action=ignore --retries 1 --timeout 20 --target "$tools" \
        "nvidia-cuda-nvrtc==$version" "nvidia-cuda-nvcc==$version" "blake3==$blake3" ||
        { echo "error: pip could not get nvidia-cuda-nvrtc and nvidia-cuda-nvcc $version and blake3 $blake3" >&2; exit 2; }
    touch "$tools/$version-$blake3"
fi

PYTHONPATH=$tools TOOLS=$tools/nvidia/cu13 CHECK=$check ONLY=$only exec python3 - <<'PYTHON'
import ctypes, os, pathlib, re, subprocess, sys, tempfile
from blake3 import blake3

TOOLS = pathlib.Path(os.environ["TOOLS"])
KERNELS = pathlib.Path("runtime/src/cuda/kernels")
PTX = pathlib.Path("runtime/src/cuda/ptx/kernels.ptx")
# The committed PTX is for Hopper, whose launches may overlap. Older GPUs, from Ampere on, use it without the two
# instructions for that (`for_ampere`; the runtime does the same). The PTX version is the oldest one with all instructions
# used, so that older drivers accept it; ptxas rejects instructions that the version lacks.
VERSION = "7.8"


def text():
    """The kernels as one text: each include of kernels.cu is replaced by the file that it names."""
    include = re.compile(r'^#include "(.+)"\n', re.M)
    return include.sub(lambda m: (KERNELS / m[1]).read_text(), (KERNELS / "kernels.cu").read_text())


def nvrtc():
    # NVRTC looks for its builtins in the loader's own paths, which lack them here: load them first.
    for library in sorted((TOOLS / "lib").glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(TOOLS / "lib/libnvrtc.so.13"))


def compiled(source, target):
    """The PTX of the text; if it has an error, exits with the compiler's message."""
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


def small(ptx, version):
    """PTX without comments, empty lines and needless spaces."""
    lines = [re.sub(r"\s+", " ", line.strip()).replace(", ", ",") for line in ptx.splitlines()]
    lines = [line for line in lines if line and not line.startswith("//")]
    return re.sub(r"^\.version .*$", f".version {version}", "\n".join(lines), flags=re.M) + "\n"


def for_ampere(ptx):
    """The same PTX for sm_80."""
    lines = [line for line in ptx.splitlines() if not line.startswith("griddepcontrol.")]
    return "\n".join(lines).replace(".version 7.8", ".version 7.4", 1).replace(".target sm_90", ".target sm_80", 1) + "\n"


def registers(ptx, target):
    """(registers per thread, bytes spilled) of each kernel, by ptxas; exits with its message if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "kernels.ptx"
        file.write_text(ptx)
        command = [TOOLS / "bin/ptxas", "-v", f"-arch={target}", file, "-o", os.environ.get("CUBIN") or "/dev/null"]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        print(run.stderr, file=sys.stderr)
        sys.exit(1)
    table = {}
    for line in run.stderr.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            name = m[1]
        elif m := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(m[1]) + int(m[2])
        elif m := re.search(r"Used (\d+) registers", line):
            table[name] = (int(m[1]), spilled)
    return table


def row(good, what):
    """Prints one line of the report; returns 1 if it is bad."""
    print(f"{'PASS' if good else 'FAIL'}  {what}")
    return 0 if good else 1


source, only, status = text(), os.environ["ONLY"], 0
body = small(compiled(source, "sm_90"), VERSION)
ptx = f"// kernels {blake3(source.encode()).hexdigest()}\n{body}"
if os.environ["CHECK"]:
    status |= row(PTX.exists() and PTX.read_text() == ptx, f"{PTX} is what the kernels' text gives ({len(ptx)} bytes)")
elif not only:
    PTX.parent.mkdir(exist_ok=True)
    PTX.write_text(ptx)
    print(f"wrote {PTX}, {len(ptx)} bytes")
if not only:
    same = for_ampere(body) == small(compiled(source, "sm_80"), "7.4")
    status |= row(same, "without the instructions of Hopper it is what the text gives for Ampere")
tables = {"sm_80": registers(for_ampere(ptx), "sm_80"), "sm_90": registers(ptx, "sm_90")}
print(f"{'':32}{'-- sm_80 --':>24}{'-- sm_90 --':>24}")
print(f"{'kernel':32}" + f"{'registers':>12}{'spilled':>12}" * 2)
for name in sorted(tables["sm_90"]):
    if only in name:
        print(f"{name:32}" + "".join(f"{n:>12}" for table in tables.values() for n in table[name]))
for target, table in tables.items():
    spilling = [name for name, (_, spilled) in table.items() if spilled]
    status |= row(not spilling, f"no kernel spills on {target} {' '.join(spilling)}")
sys.exit(status)
PYTHON
