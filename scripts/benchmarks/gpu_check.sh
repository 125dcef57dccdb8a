#!/usr/bin/env bash
set -uo pipefail
wheels=(  # what a machine with torch, triton, jax, numpy, scipy, h5py, tensorboard, rich, filelock, cloudpickle, imageio
          # and pytest, pytest-xdist and hypothesis lacks
    tyro==1.0.17 docstring-parser==0.18.0 typeguard==4.6.1
    gymnasium==1.4.0 farama-notifications==0.0.6 mujoco==4.0.0 mujoco-core==4.0.0 glfw==2.11.0
)
usage() {
    cat << TEXT
Check rlrat on a machine with a GPU, and without a network, in one run of at most 10 minutes:

    scripts/benchmarks/gpu_check.sh [FOLDER] [--seconds 570] [--only STEP ...]

First it checks that there is a GPU, that an agent runs and that the tests can be collected; else one line says why not,
and the exit code is 2. Then come a rational beside float64 and captured updates beside plain ones; the tests that need
a GPU, and those of the kernels; bandwidths; the speed of captured updates of all agents, IQL's beside the same in JAX;
a profile; a run that is stopped and resumed; the paper's table, projected; compiled updates; a search for races; and
what time is left for. Every step is a process with a time limit. After every figure FOLDER (by default
docs/benchmarks) has gpu_check.json and gpu_check.md, so that a run that is cut short counts. A step that fails or
hangs costs no other; the exit code is then 1.

It uses this source tree with the Python that runs as python3 (or PYTHON), which needs torch, triton, numpy, scipy,
h5py, tensorboard, rich, filelock, cloudpickle, imageio, setuptools, pytest, hypothesis, to be in time pytest-xdist and
a C compiler, to compare with it jax, and what is in .whl/, which is installed into a temporary folder. For Python 3.12:

    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .whl \\
        ${wheels[*]}
TEXT
}
if [[ " $* " =~ " -h " || " $* " =~ " --help " ]]; then
    usage
    exit
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$root/docs/benchmarks
if [[ ${1:---} != --* ]]; then
    folder=$(realpath -m "$1")
    shift
fi
python=${PYTHON:-python3}
cd "$root" || exit 1
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
if compgen -G ".whl/*.whl" > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$temporary/site" .whl/*.whl || exit 2
    PYTHONPATH=$temporary/site:$PYTHONPATH
fi
"$python" scripts/benchmarks/gpu_check.py "$folder" "$@"
code=$?
if [ $code != 2 ]; then
    printf '\n%s s, %s\n' "$SECONDS" "$folder/gpu_check.md"
fi
exit $code
