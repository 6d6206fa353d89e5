#!/usr/bin/env bash
# All that takes a CUDA device, in calls of under nine minutes: GPU tests, measure, calibrate, validate, storage, requests
# that arrive, the yardstick.
#
#   bash benchmarks/gpu.sh OUT_FOLDER [WHEEL ...]
#
# From a bare checkout; nothing is fetched or installed. WHEEL: a package that the machine lacks (simpy), unpacked into a
# temporary folder. OUT_FOLDER/results is what to commit, as it is; summary.txt beside it says what became of each part
# and how long it took; a part that fails or runs out of time stops no other. Exit status: 0 when all that ran went well,
# 1 otherwise, 2 for a machine without CUDA.
#
#   GPU_BUDGET_S=530     seconds for everything; what no longer fits is skipped
#   GPU_SH_MEASURE_S=150 seconds for the rounds of measuring, of which the first is whole whatever it takes
#   GPU_SH_FROM=FOLDER   go on from the results of an earlier call: what it has is not done again, its fit is kept, and
#                        groups of the suite that it had no time for are run
#   GPU_SH_STORAGE=1     also time storage, and run a model whose experts wait there; in every call
#   GPU_SH_ARRIVALS=FILE a public trace of arrivals (docs/cost.md says of which kinds); without, some of one length
#   GPU_SH_GRAPHS=1      sections of layers as CUDA graphs, instead of kernel by kernel: a stack, and a fit, of its own
#   GPU_SH_SKIP="tests yardstick"   parts to leave out, by name
#   GPU_SH_BACKEND=cpu   the same on the CPU back end and small models, to try the script out
#   PYTHON=python3       an interpreter with PyTorch
set -u

fail() { printf 'gpu.sh: %s\n' "$1" >&2; exit 2; }

[ $# -ge 1 ] || fail 'name a folder for the results: bash benchmarks/gpu.sh OUT_FOLDER [WHEEL ...]'
python=$(command -v -- "${PYTHON:-python3}") || fail "no ${PYTHON:-python3}: name an interpreter, PYTHON=..."
case $python in /*) ;; *) python=$PWD/$python ;; esac
backend=${GPU_SH_BACKEND:-cuda}
budget_s=${GPU_BUDGET_S:-530}
case $budget_s in '' | *[!0-9]*) fail "GPU_BUDGET_S=$budget_s: give whole seconds" ;; esac
case $backend in cuda | cpu) ;; *) fail "GPU_SH_BACKEND=$backend: cuda, or cpu to try the script out" ;; esac
if [ "$backend" = cuda ]; then
  "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
    fail 'no CUDA device, or no PyTorch that sees one: GPU_SH_BACKEND=cpu tries the script out without'
fi

begun=$PWD
mkdir -p -- "$1" || fail "$1: cannot be made a folder"
out=$(cd -- "$1" && pwd)
shift
unpacked=$(mktemp -d) || fail 'no room for a temporary folder'
trap 'rm -rf -- "$unpacked"' EXIT
for wheel in "$@"; do
  "$python" -m zipfile -e "$wheel" "$unpacked" || fail "$wheel: not a wheel"
done
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 2
export PYTHONPATH="$unpacked${PYTHONPATH:+:$PYTHONPATH}" PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1 COLUMNS=160
export MPLBACKEND=Agg TRANSFORMERS_VERBOSITY=error
from=${GPU_SH_FROM:-} arrivals=${GPU_SH_ARRIVALS:-}
case $from in '' | /*) ;; *) from=$begun/$from ;; esac
case $arrivals in '' | /*) ;; *) arrivals=$begun/$arrivals ;; esac
[ -z "$from" ] || [ -f "$from/measurements.json" ] || fail "GPU_SH_FROM=$from: no measurements.json there"
[ -z "$arrivals" ] || [ -f "$arrivals" ] || fail "GPU_SH_ARRIVALS=$arrivals: no such file"
rest=$out/rest results=$out/results log=$out/log.txt summary=$out/summary.txt
case $from/ in "$out"/*) fail "GPU_SH_FROM=$from: it lies in the folder for the results: name another" ;; esac
rm -rf -- "$rest" "$results"
rm -f -- "$out"/rest.tar.gz
mkdir -p -- "$rest" "$results"
[ -z "$from" ] || cp -R -- "$from"/. "$results"
: >"$log"
: >"$summary"
failed=0

left_out() { case " ${GPU_SH_SKIP:-} " in *" $1 "*) ;; *) return 1 ;; esac }

# there FILE: whether an earlier call left it, so that the part that makes it is not done again.
there() { [ -e "$results/$1" ]; }

# fit: the name of the fit in the results, device.stack.yaml; nothing where there is none.
fit() { grep -sl '^gemm_tables:' "$results"/*.yaml | head -n 1; }

left_s() { echo $((budget_s - SECONDS)); }

# part NAME LIMIT_S LEAST_S COMMAND...: run for at most LIMIT_S of what is left, unless that is below LEAST_S.
part() {
  local name=$1 limit_s=$2 least_s=$3 begin_s=$SECONDS status
  shift 3
  if left_out "$name"; then
    printf '%-12s left out\n' "$name" | tee -a "$summary"
    return
  fi
  [ "$limit_s" -le "$(left_s)" ] || limit_s=$(left_s)
  if [ "$limit_s" -lt "$least_s" ]; then
    printf '%-12s skipped: %d s left, %d needed\n' "$name" "$(left_s)" "$least_s" | tee -a "$summary"
    return
  fi
  printf '\n=== %s: at most %d s ===\n' "$name" "$limit_s" >>"$log"
  timeout -s ABRT -k 5 "$limit_s" "$@" >>"$log" 2>&1
  status=$?
  [ "$status" -eq 0 ] || failed=1
  printf '%-12s %4d s, status %d%s\n' "$name" $((SECONDS - begin_s)) "$status" "$(meaning "$status")" |
    tee -a "$summary"
}

meaning() {
  case $1 in 0) ;; 124 | 134 | 137) echo ' (out of time, or crashed: see log.txt)' ;; *) echo ' (see log.txt)' ;; esac
}

part about 40 5 "$python" -m benchmarks.gpu_machine "$backend"
[ "$backend" = cpu ] || part host 40 15 "$python" -m benchmarks.gpu_host

# Compiled parts are made while the tests run, so that neither a measurement nor its budget pays for them.
compiling=
if [ "$(left_s)" -ge 120 ]; then
  timeout 90 "$python" -m pregate.cli.main compare switch-mini-16 --hardware a100-sxm4-80gb --output-tokens 4 \
    --policies on_demand,pregate,lru,lfu >"$rest/compile.txt" 2>&1 &
  compiling=$!
fi
[ -n "$from" ] || part tests 120 15 "$python" -m pytest -q -W default -p no:cacheprovider --junitxml "$rest/tests.xml" \
  tests/gpu tests/unit/runtime/backends/test_runtime_cuda.py tests/unit/runtime/live/test_own_gates_cuda_standin.py
[ -z "$compiling" ] || wait "$compiling" || failed=1

graphs=() link=()
if [ "$backend" = cuda ]; then
  measure=(--dtypes 'fp32,bf16') suite=gpu stored=switch-base-8 dtype=bf16
  [ -z "${GPU_SH_GRAPHS:-}" ] || graphs=(--graphs)
else
  measure=(--dtypes fp32 --link 2GB/s --quick) suite=quick link=(--link 2GB/s) stored=switch-mini-16 dtype=fp32
fi
if [ -n "${GPU_SH_STORAGE:-}" ]; then
  mkdir -p -- "$unpacked/storage"
  measure+=(--storage "$unpacked/storage")
fi
there measurements.json || part measure 230 60 "$python" -m pregate.cli.main measure --backend "$backend" "${graphs[@]}" \
  "${measure[@]}" --budget-s "${GPU_SH_MEASURE_S:-150}" --even-if-busy -o "$results/measurements.json"
if ! there measurements.json && [ "$(left_s)" -ge 150 ]; then
  part 'measure less' 100 60 "$python" -m pregate.cli.main measure --backend "$backend" "${graphs[@]}" "${measure[@]}" --quick \
    --even-if-busy -o "$results/measurements.json"
fi
if [ -z "$(fit)" ]; then
  part calibrate 60 10 "$python" -m pregate.cli.main calibrate "$results/measurements.json" -o "$results/fit.yaml" \
    --plot "$out/fit.png" --even-if-busy
  if there fit.yaml; then # its name is what reports call it: device.stack
    named=$(sed -n 's/^hardware: //p' "$results/fit.yaml").$(sed -n 's/^stack: //p' "$results/fit.yaml").yaml
    mv -- "$results/fit.yaml" "$results/$named"
  fi
fi
fit=$(fit)

# Left for after the last run: the report, and a run that took longer than expected (45 s). A first call leaves no more,
# so that the suite comes first; one that goes on leaves time for what comes below, too.
storage= reserve_s=45
[ -z "${GPU_SH_STORAGE:-}" ] || there storage/summary.json || storage=wanted
if [ -n "$from" ]; then
  [ -z "$storage" ] || reserve_s=$((reserve_s + 45))
  left_out arrivals || there arrivals.json || reserve_s=$((reserve_s + 90))
  left_out yardstick || there accelerate_yardstick.json || reserve_s=$((reserve_s + 35))
  left_out sanitizer || reserve_s=$((reserve_s + 30))
fi
validate_s=$(($(left_s) - reserve_s))
if [ -n "$fit" ]; then
  part validate $((validate_s + 45)) 60 "$python" -m pregate.cli.main validate --suite "$suite" --backend "$backend" "${graphs[@]}" \
    --fit "$fit" --repeats 2 --budget-s "$((validate_s > 1 ? validate_s : 1))" --go-on -o "$results"
else
  failed=1
  echo 'validate     skipped: there is no fit' | tee -a "$summary"
fi
if [ -n "$storage" ] && [ -n "$fit" ]; then
  part storage 90 25 "$python" -m pregate.cli.main validate --model "$stored" --backend "$backend" "${graphs[@]}" \
    --dtype "$dtype" --input-tokens 16 --output-tokens 6 --tier ssd \
    "${link[@]}" --storage "$unpacked/storage" --policies on_demand,pregate,lru --repeats 2 --fit "$fit" -o "$results/storage"
fi
if [ -n "$fit" ] && ! there arrivals.json; then
  part arrivals 120 30 "$python" -m benchmarks.device_arrivals "$backend" "$fit" "$results/arrivals.json" \
    ${arrivals:+"$arrivals"}
fi
there accelerate_yardstick.json ||
  part yardstick 60 30 "$python" -m benchmarks.accelerate_yardstick "$backend" "$results/accelerate_yardstick.json"
if [ "$backend" = cuda ] && command -v compute-sanitizer >/dev/null; then
  part sanitizer 55 25 compute-sanitizer --tool memcheck --error-exitcode 9 --target-processes all \
    "$python" -m pytest -q -W default -p no:cacheprovider \
    'tests/gpu/test_cuda.py::test_all_policies_agree_bit_for_bit_and_with_the_cpu_within_tolerance[decoder-only-1]'
else
  echo 'sanitizer    skipped: there is no compute-sanitizer' | tee -a "$summary"
fi

tar -czf "$out/rest.tar.gz" -C "$out" rest && rm -rf -- "$rest"
rmdir -- "$results" 2>/dev/null
[ ! -f "$results/summary.json" ] || "$python" - "$results/summary.json" <<'PYTHON' | tee -a "$summary"
import json, sys

found = json.load(open(sys.argv[1]))
for name, value in found.items():
    if isinstance(value, str | int | float | bool | None) or name in ("failed", "skipped", "achieved_over_bound"):
        print(f"{name}: {value}")
PYTHON
printf 'all          %4d s of %d\n' "$SECONDS" "$budget_s" | tee -a "$summary"
exit "$failed"
