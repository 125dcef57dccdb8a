#!/usr/bin/env bash
# The GPU tests, and the benchmarks of rational activations, on a machine with a GPU, in under 8 minutes:
#
#     scripts/benchmarks/gpu_check.sh [FOLDER]       writes FOLDER/rational_gpu.json, by default in docs/benchmarks
#
# It uses this source tree with the Python that runs as python3 (or PYTHON), which needs torch, triton, numpy, pytest,
# hypothesis and, to be in time, pytest-xdist. It installs nothing but wheels in .whl/, into a temporary folder. Every
# part runs, whatever became of the one before: exit code 1 if one of them failed, 2 without a GPU.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(realpath -m "${1:-$root/docs/benchmarks}")
python=${PYTHON:-python3}
cd "$root" || exit 1
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if compgen -G ".whl/*.whl" > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$temporary/site" .whl/*.whl || exit 1
    PYTHONPATH=$temporary/site:$PYTHONPATH
fi

failed=()
part() {  # NAME SECONDS COMMAND...: interrupted, and soon after killed, when its time is up
    local name=$1 seconds=$2
    shift 2
    printf '\n== %s\n' "$name"
    timeout --signal=INT --kill-after=10 "$seconds" "$@"
    local code=$?
    if [ $code = 124 ] || [ $code = 137 ]; then failed+=("$name (not done after $seconds s)")
    elif [ $code != 0 ]; then failed+=("$name (exit code $code)")
    fi
}

timeout --kill-after=5 60 "$python" scripts/benchmarks/rational_speed.py --machine || exit $?
part backends 30 "$python" -m rlrat.rational

tests=("$python" -m pytest -q --tb=short --maxfail=20)
if "$python" -c "import xdist" 2> /dev/null; then  # most of the time goes into compiling hundreds of kernels
    tests+=(-n "$(nproc)" --dist worksteal)
fi
kernels=(tests/rational/test_{triton_kernels,gpu}.py)
part tests 230 "${tests[@]}" -m "not slow" "${kernels[@]}"
mapfile -t others < <(grep -l "mark\.gpu" tests/rational/test_*.py | grep -vFf <(printf '%s\n' "${kernels[@]}"))
if [ ${#others[@]} != 0 ]; then
    part "other tests" 45 "${tests[@]}" -m "gpu and not slow" "${others[@]}"
fi
part "captured updates" 60 "${tests[@]}" -m "gpu and not slow" tests/updates/test_captured.py
seconds=$((455 - SECONDS))
part benchmark $((seconds + 5)) "$python" scripts/benchmarks/rational_speed.py --output "$folder" --tune --seconds "$seconds"

printf '\n%s s, %s\n' "$SECONDS" "$folder/rational_gpu.json"
if [ ${#failed[@]} != 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
