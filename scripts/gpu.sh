#!/usr/bin/env bash
# Runs every check and benchmark that needs a GPU, in order. Each part runs by itself under its own time limit; a part that
# fails does not stop the others.
#
#     scripts/gpu.sh OUT [--only PART,PART] [MODEL.nsv ...]
#
# OUT is a folder: parts.jsonl has a line for each part (name, exit code, seconds), PART.log what it printed, PART.json its
# results. Models are for speed; the checks of correctness make their own files from the demo and the test fixtures.
#
# Needs the release program nanoserve in target/release (or $BIN). The machine may have no network and no Rust: then build
# elsewhere, by `cargo build --release --workspace --locked` on the same kind of processor with an older or equal glibc, and
# copy the program, weights/demo, tests/reference, this script and the models. Needs Python 3 for the comparisons; uses
# compute-sanitizer if it is there.
#
# Kernels are tested one by one if their test program was copied as well, as $BIN/cuda_kernels or $KERNELS:
#
#     cargo test --locked -p nanoserve-tests --test cuda_kernels --no-run      says which file it is, target/debug/deps/cuda_kernels-...
#     strip -o target/release/cuda_kernels target/debug/deps/cuda_kernels-...
#
# For a test that fails, kernels.log has the launches. The last one (kernel, blocks, sizes) is the one that was wrong.
#
#     sanity      nvidia-smi                                          kernels     each kernel against plain loops
#     selftest    golden vectors on the GPU, f32, f16, q8
#     ladder      every fixture in f32 within 1e-4                    kl          f16, q8: KL at most 1.1 times the CPU's
#     greedy      200 tokens of the demo as on the CPU                twice       the same bits again, overlapping, ahead, split
#     memcheck    compute-sanitizer on the demo                       racecheck   likewise
#     kernels-memcheck, kernels-racecheck, kernels-synccheck          the same on the tests of the kernels
#     decode      each model, prompt 16, 256 tokens                   prompt      each model, prompt 2048
#     overlap     decode with --overlap                               first       exec to first token, kernels cached
#     peer        llama.cpp's llama-bench, if $PEER is set to its command
#
# Exit codes: 0 all parts passed; 1 some failed; 2 something is missing.
set -uo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    "" | -*) echo "error: give a folder for results; see --help" >&2; exit 2 ;;
esac
out=$1 only= models=()
shift
while [ $# -gt 0 ]; do
    case $1 in
        --only) only=,${2:?--only needs names}, ; shift ;;
        *) models+=("$1") ;;
    esac
    shift
done
bin=${BIN:-target/release}
[ -x "$bin/nanoserve" ] || { echo "error: missing $bin/nanoserve; see --help" >&2; exit 2; }
command -v python3 >/dev/null || { echo "error: missing python3" >&2; exit 2; }
mkdir -p "$out" && work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
tests=${KERNELS:-$bin/cuda_kernels}
export bin out work tests NANOSERVE_KERNELS=cuda
failed=0

# part NAME SECONDS COMMAND...: runs the command, keeps what it prints, and reports its exit code and time.
part() {
    local name=$1 limit=$2 start rc seconds
    shift 2
    if [ -n "$only" ] && [[ $only != *,$name,* ]]; then return; fi
    start=$(date +%s.%N)
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
    rc=$?
    seconds=$(python3 -c "import time; print(round(time.time() - $start, 2))")
    echo "{\"part\": \"$name\", \"rc\": $rc, \"seconds\": $seconds}" | tee -a "$out/parts.jsonl"
    [ $rc -eq 0 ] || failed=1
}

convert() { "$bin/nanoserve" convert "$1" "$2" --dtype "$3" --quiet; }

selftest() {
    local dtype rc=0
    for dtype in f32 f16 q8; do
        convert weights/demo "$work/demo-$dtype.nsv" $dtype && "$bin/nanoserve" run "$work/demo-$dtype.nsv" --self-test --device cuda || rc=1
    done
    return $rc
}

demo() { [ -e "$work/demo-$1.nsv" ] || convert weights/demo "$work/demo-$1.nsv" "$1"; }

sanitize() {
    command -v compute-sanitizer >/dev/null || { echo "skipped: no compute-sanitizer here"; return 0; }
    local dtype rc=0
    for dtype in f16 q8; do
        demo $dtype
        compute-sanitizer --tool "$1" --error-exitcode 3 "$bin/nanoserve" run "$work/demo-$dtype.nsv" --device cuda \
            --ids 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20 -n 4 --temperature 0 --quiet || rc=1
    done
    return $rc
}

# The names of the tests of kernels that a GPU can run. None, with a message, if the program was not copied.
kernel_tests() {
    [ -x "$tests" ] || { echo "skipped: no $tests here; see --help" >&2; return 0; }
    "$tests" --list --format terse | sed -n 's/: test$//p' | grep -v '^emulator::'
}

# One process for each test: a fault ends the context of the whole process.
kernels() {
    local name rc=0
    for name in $(kernel_tests); do
        timeout --kill-after=5 60 "$tests" --exact "$name" --nocapture >"$work/kernel" 2>&1
        if [ $? -eq 0 ] && ! grep -q ^skipped: "$work/kernel"; then
            echo "PASS  $name"
        else
            echo "FAIL  $name" && tail -n 30 "$work/kernel"
            rc=1
        fi
    done
    return $rc
}

sanitize_kernels() {
    command -v compute-sanitizer >/dev/null || { echo "skipped: no compute-sanitizer here"; return 0; }
    [ -n "$(kernel_tests)" ] || return 0
    compute-sanitizer --tool "$1" --error-exitcode 3 "$tests" --skip emulator:: --test-threads 1
}

bench() { # FILE OPTIONS...: one JSON line per model
    local file=$1 model rc=0
    shift
    : >"$file"
    for model in "${models[@]}"; do
        "$bin/nanoserve" bench "$model" --device cuda --json "$@" | sed "s|^{|{\"model\": \"${model##*/}\", |" | tee -a "$file" || rc=1
    done
    return $rc
}

first() {
    local model rc=0
    for model in "${models[@]}"; do
        for _ in 1 2 3; do
            python3 - "$model" <<'PYTHON' || rc=1
import json, os, subprocess, sys, time
command = [os.environ["bin"] + "/nanoserve", "run", sys.argv[1], "--device", "cuda", "--ids", "1,2,3,4,5,6,7,8", "-n", "1", "--json"]
start = time.time()
done = subprocess.run(command, capture_output=True, text=True)
seconds = time.time() - start
print(json.dumps({"model": os.path.basename(sys.argv[1]), "exec_to_exit_s": round(seconds, 3), "rc": done.returncode,
                  "timings": json.loads(done.stdout)["timings"] if done.returncode == 0 else done.stderr}))
sys.exit(done.returncode)
PYTHON
        done
    done
    return $rc
}

# The comparisons with the CPU, in one program: ladder, kl, greedy, twice.
against() {
    python3 - "$1" <<'PYTHON'
import json, os, pathlib, subprocess, sys
BIN, WORK, OUT = (pathlib.Path(os.environ[name]) for name in ("bin", "work", "out"))
results, well = [], True

def run(program, *args, fails=()):
    done = subprocess.run([BIN / "nanoserve", program, *map(str, args)], capture_output=True, text=True)
    if done.returncode not in (0, *fails):
        print(done.stderr, file=sys.stderr)
        raise SystemExit(1)
    return done.stdout

def converted(source, dtype):
    to = WORK / f"{pathlib.Path(source).name}-{dtype}.nsv"
    if not to.exists():
        run("convert", source, to, "--dtype", dtype, "--quiet")
    return to

def note(ok, **what):
    global well
    well &= ok
    results.append({"ok": ok, **what})
    print(json.dumps(results[-1]), flush=True)

def verify(model, reference, *args):
    return json.loads(run("verify", model, reference, "--json", *args, fails=(1,)))

def fixtures():
    return sorted(p for p in pathlib.Path("tests/reference").iterdir() if (p / "reference.safetensors").exists())

def ladder():
    for folder in fixtures():
        r = verify(converted(folder, "f32"), folder / "reference.safetensors", "--device", "cuda")
        worst = max(c["max_abs"] for c in r["components"])
        bad = [c["name"] for c in r["components"] if not c["pass"]]
        note(r["pass"], fixture=folder.name, device=r["device"], worst=worst, failed=bad, greedy=r["greedy"]["pass"])

def kl():
    for folder in fixtures():
        for dtype in ("f16", "q8"):
            for kv in ("f32", "f16"):
                model, reference = converted(folder, dtype), folder / "reference.safetensors"
                cpu = verify(model, reference, "--kv", kv)["kl_mean"]
                gpu = verify(model, reference, "--kv", kv, "--device", "cuda")["kl_mean"]
                note(gpu <= 1.1 * cpu + 1e-9, fixture=folder.name, dtype=dtype, kv=kv, cpu=cpu, gpu=gpu)

def text(dtype, *args, n=200):
    model = converted("weights/demo", dtype)
    return json.loads(run("run", model, "-p", "ROMEO:", "-n", n, "--temperature", 0, "--ignore-eos", "--json", *args))

def greedy():
    for dtype in ("f32", "f16", "q8"):
        cpu, gpu = text(dtype)["ids"], text(dtype, "--device", "cuda")["ids"]
        same = next((i for i, (a, b) in enumerate(zip(cpu, gpu)) if a != b), len(cpu))
        note(cpu == gpu, dtype=dtype, tokens=len(cpu), same=same)

def twice():
    for dtype in ("f16", "q8"):
        one = text(dtype, "--device", "cuda")
        for what, args in (("again", []), ("overlap", ["--overlap"])):
            other = text(dtype, "--device", "cuda", *args)
            note(one["logits_hash"] == other["logits_hash"] and one["ids"] == other["ids"], dtype=dtype, what=what)
        # Without a hash, only the likeliest tokens are returned, and steps run ahead.
        args = (converted("weights/demo", dtype), "-p", "ROMEO:", "-n", 200, "--temperature", 0, "--device", "cuda")
        expected, shown = json.loads(run("run", *args, "--json"))["text"], run("run", *args, "--quiet")
        note(expected != "" and expected in shown, dtype=dtype, what="running ahead")
        half = text(dtype, "--device", "cuda", "--gpu-layers", 2)
        note(len(half["ids"]) == 200, dtype=dtype, what="split", same_text=half["ids"] == one["ids"])

{"ladder": ladder, "kl": kl, "greedy": greedy, "twice": twice}[sys.argv[1]]()
(OUT / f"{sys.argv[1]}.json").write_text(json.dumps(results, indent=1))
sys.exit(not well)
PYTHON
}

peer() {
    [ -n "${PEER:-}" ] || { echo "skipped: no llama-bench named in PEER"; return 0; }
    $PEER
}

export -f convert demo selftest sanitize kernel_tests kernels sanitize_kernels against first peer
# Functions run in a shell of their own, so that timeout can end them.
in_shell() { part "$1" "$2" bash -c "${*:3}"; }
declare -a names=("${models[@]+"${models[@]}"}")
list=$(printf '%q ' "${names[@]+"${names[@]}"}")
with_models="models=($list); $(declare -f bench)"

in_shell sanity 30 'nvidia-smi && nvidia-smi --query-gpu=name,driver_version,memory.total,memory.free,clocks.max.sm,clocks.max.mem --format=csv'
in_shell kernels 240 kernels
in_shell selftest 120 selftest
in_shell ladder 180 'against ladder'
in_shell greedy 90 'against greedy'
in_shell twice 90 'against twice'
in_shell decode 180 "$with_models; bench $(printf %q "$out")/decode.json -p 16 -n 256 -r 5"
in_shell prompt 180 "$with_models; bench $(printf %q "$out")/prompt.json -p 2048 -n 0 -r 5"
in_shell overlap 180 "$with_models; bench $(printf %q "$out")/overlap.json -p 16 -n 256 -r 5 --overlap"
in_shell first 90 "models=($list); $(declare -f first); first"
in_shell kl 300 'against kl'
in_shell memcheck 180 'sanitize memcheck'
in_shell racecheck 240 'sanitize racecheck'
for tool in memcheck racecheck synccheck; do in_shell kernels-$tool 300 "sanitize_kernels $tool"; done
in_shell peer 180 peer
exit $failed
