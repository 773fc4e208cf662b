#!/usr/bin/env bash
# All that needs an NVIDIA GPU, in one go of about ten minutes: tests/gpu/run.sh [STEP ...].
#
# PYTHON      an interpreter with JAX for CUDA, pytest, scikit-build-core and nanobind; python3
# ARTIFACTS   what tests/gpu/prepare.py has compiled, here or elsewhere, and in wheels/ the package's and the simulator's
#             wheels for this Python, if they are to be installed; build/gpu. What is missing is compiled here.
# OUT         logs, and the pages that were written; build/gpu/out
# BENCH_OPTIONS   of benchmarks/gpu.py; --quick
#
# A step that fails does not stop the next; the exit status is 1 if one did, and the last lines say which.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
ARTIFACTS=$(realpath -m "${ARTIFACTS:-build/gpu}")
OUT=$(realpath -m "${OUT:-build/gpu/out}")
BENCH_OPTIONS=${BENCH_OPTIONS---quick}
SITE=$PWD/build/gpu/site
STEPS=("$@")
[ ${#STEPS[@]} -gt 0 ] || STEPS=(card install kernels tests alone differential bench)
mkdir -p "$OUT" "$SITE"
export PYTHONPATH=$SITE PYTHONUNBUFFERED=1 JAX_PLATFORMS=${GPU_PLATFORMS:-cuda,cpu}
export XLA_PYTHON_CLIENT_PREALLOCATE=false
SUMMARY=()
FAILED=0

# Runs the function of a step for at most so many seconds, into its log.
step() {
  local name=$1 seconds=$2 begun=$SECONDS status
  timeout --kill-after=10 "$seconds" bash -c "$(declare -f "$name"); $name" > "$OUT/$name.log" 2>&1
  status=$?
  SUMMARY+=("$(printf '%-14s %-8s %4d s' "$name" "$([ $status = 0 ] && echo passed || echo "FAILED ($status)")" $((SECONDS - begun)))")
  [ $status = 0 ] || { FAILED=1; echo "--- $name failed; the end of $OUT/$name.log:"; tail -40 "$OUT/$name.log"; }
}

card() {
  nvidia-smi
  "$PYTHON" -c 'import sys, jax; print(sys.version, jax.__version__, jax.devices("cuda"))'
}

install() {
  if compgen -G "$ARTIFACTS/wheels/*.whl" > /dev/null; then
    env -u PYTHONPATH "$PYTHON" -m pip install --quiet --no-deps --no-index --upgrade --target "$SITE" "$ARTIFACTS"/wheels/*.whl
    return
  fi
  local options=(--quiet --no-deps --no-build-isolation --no-index --upgrade --target "$SITE")
  env -u PYTHONPATH "$PYTHON" -m pip install "${options[@]}" -C build-dir=build/gpu/extension . &
  local first=$!
  env -u PYTHONPATH "$PYTHON" -m pip install "${options[@]}" -C build-dir="$PWD/build/gpu/simulator" ./simulator
  local second=$?
  wait "$first" && return $second
}

# sm_90a or sm_100f, as the card is.
architecture() {
  case $("$PYTHON" -c 'import jax; print(jax.devices("cuda")[0].compute_capability)') in
    9.*) echo sm_90a ;;
    *) echo sm_100f ;;
  esac
}

kernels() {
  [ -f "$ARTIFACTS/kernels/manifest.json" ] && { echo "$ARTIFACTS has kernels"; return 0; }
  env -u PYTHONPATH "$PYTHON" tests/gpu/prepare.py --arch "$(architecture)" --out "$ARTIFACTS"
}

tests() {
  local processes=()
  "$PYTHON" -c 'import xdist' 2> /dev/null && processes=(-n "${TEST_PROCESSES:-4}")
  "$PYTHON" -P -m pytest tests/gpu -m "gpu and not slow" "${processes[@]}" --durations=10
}

# A million tokens, all of the memory, compute-sanitizer.
alone() { "$PYTHON" -P -m pytest tests/gpu -m "gpu and slow" --durations=10; }

differential() { "$PYTHON" tests/gpu/differential.py --kernels "$ARTIFACTS/kernels" --write-docs; }

bench() { "$PYTHON" benchmarks/gpu.py $BENCH_OPTIONS --write-docs --json "$OUT/bench.json"; }

export PYTHON ARTIFACTS OUT BENCH_OPTIONS SITE
export -f architecture
declare -A LIMITS=([card]=60 [install]=${INSTALL_SECONDS:-420} [kernels]=600 [tests]=300 [alone]=240 [differential]=120 [bench]=${BENCH_SECONDS:-240})
for name in "${STEPS[@]}"; do
  [ -n "${LIMITS[$name]:-}" ] || { echo "no step $name; there are ${!LIMITS[*]}"; exit 2; }
  if [ -f "$ARTIFACTS/kernels/manifest.json" ]; then
    export JAX_FA4_KERNELS=$ARTIFACTS/kernels
    [ -d "$ARTIFACTS/test_kernels" ] && export JAX_FA4_TEST_KERNELS=$ARTIFACTS/test_kernels
    JAX_FA4_GPU_BUILDS=$(find "$ARTIFACTS" -maxdepth 1 -type d -name 'kernels-*' | paste -sd: -)
    export JAX_FA4_GPU_BUILDS
  fi
  step "$name" "${LIMITS[$name]}"
done
cp docs/gpu_benchmark.md docs/gpu_benchmark.png docs/simulator_on_gpu.md "$OUT" 2> /dev/null
for log in tests alone differential bench; do
  [ -f "$OUT/$log.log" ] && { echo "--- $log"; tail -25 "$OUT/$log.log"; }
done
printf '%s\n' "${SUMMARY[@]}"
exit $FAILED
