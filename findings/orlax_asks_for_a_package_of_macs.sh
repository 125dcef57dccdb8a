#!/usr/bin/env bash
# orlax 0.2.0 requires jax-metal>=0.1.1 without a marker, and jax-metal has wheels for macOS alone: on Linux
# `pip install orlax` finds no version of it and installs nothing. Its wheel says nothing of one system ("py3-none-any").
# It also requires jax below 0.4.36.
#
# Seen: without jax-metal, and with jax 0.10.2, it updates IQL and TD3+BC.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" "$@"; }
pip install orlax==0.2.0 > "$folder/out" 2>&1 && code=0 || code=$?
line=$(grep 'No matching distribution' "$folder/out" || true)
pip download --quiet --no-deps --only-binary=:all: --platform macosx_13_0_arm64 -d "$folder/mac" jax-metal==0.1.1
pip install --quiet jax==0.10.2 flax==0.12.8 optax==0.2.8 distrax==0.1.9 tqdm==4.70.1 wandb==0.31.0
pip install --quiet --no-deps orlax==0.2.0
updated=$("$folder/venv/bin/python" - <<'PYTHON'
import jax
import numpy as np
from orlax import ALGORITHMS, AlgoCfg, ModelCfg, TrainingCfg
from orlax.core.types import Batch

batch = Batch(np.ones((4, 3)), np.ones((4, 2)) / 2, np.ones(4), np.ones((4, 3)), np.zeros(4))
for name in ("iql", "td3_bc"):
    algorithm = ALGORITHMS[name](3, 2, TrainingCfg(name, ""), ModelCfg((8, 8)), AlgoCfg())
    _, metrics = algorithm.update(algorithm.init(jax.random.key(0)), batch, jax.random.key(1))
    assert np.isfinite(float(metrics["critic_loss"]))
print("both update")
PYTHON
)
printf '%s\n' "pip install orlax==0.2.0: exit code $code, $line" "for a Mac: $(ls "$folder/mac")" "without it: ${updated##*$'\n'}"
test "$code" != 0
grep -q 'jax-metal' <<< "$line"
ls "$folder"/mac/*macosx*.whl > "$folder/out"
grep -q 'both update' <<< "$updated"
