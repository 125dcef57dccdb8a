#!/usr/bin/env bash
# orlax 0.2.0: its wheel is for every system ("py3-none-any") and requires jax-metal>=0.1.1 without a marker, of which
# there are wheels for macOS alone. On Linux `pip install orlax==0.2.0` finds none, and installs nothing.
#
# Installed with --no-deps beside jax 0.10.2, flax, optax, distrax, tqdm and wandb, it trains (docs/benchmarks/agents.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" "$@"; }
pip install orlax==0.2.0 > "$folder/out" 2>&1 && code=0 || code=$?
line=$(grep 'No matching distribution' "$folder/out" || true)
pip download --quiet --no-deps -d "$folder/found" orlax==0.2.0
pip download --quiet --no-deps -d "$folder/found" --platform macosx_13_0_arm64 --only-binary=:all: jax-metal==0.1.1
printf '%s\n' "pip install orlax==0.2.0 ends with $code: $line" "$(ls "$folder/found")"
test "$code" != 0
grep -q 'jax-metal' <<< "$line"
ls "$folder"/found/orlax-0.2.0-py3-none-any.whl "$folder"/found/jax_metal-0.1.1-*macosx*.whl > "$folder/out"
