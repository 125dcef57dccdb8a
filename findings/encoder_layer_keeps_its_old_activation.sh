#!/usr/bin/env bash
# torch 2.13.0: an nn.TransformerEncoderLayer whose `activation` was replaced computes with the new one while gradients
# are recorded, and with the old one in eval mode without gradients: its fused path looks at a flag that the constructor
# set (`activation_relu_or_gelu`), not at the module that is there. Nothing is said. Whoever swaps activations in a
# trained model (for a learned one, say) trains one network and evaluates another.
#
# Seen (CPU build): the two modes differ by at most 4.8e-07 with the layer's own ReLU, by 0.50 with Tanh in its place,
# and by 3.6e-07 with the flag set to 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation=nn.ReLU(), batch_first=True).eval()
x = torch.randn(4, 6, 16)


def difference() -> float:
    with_gradients = layer(x).detach()
    with torch.no_grad():
        return (with_gradients - layer(x)).abs().max().item()


own = difference()
layer.activation = nn.Tanh()
replaced = difference()
layer.activation_relu_or_gelu = 0
mended = difference()
print(f"torch {torch.__version__}: own {own:.1e}, replaced {replaced:.2f}, flag set to 0 {mended:.1e}")
assert own < 1e-6 and mended < 1e-6 and replaced > 0.1
PYTHON
