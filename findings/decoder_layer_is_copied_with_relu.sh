#!/usr/bin/env bash
# torch 2.13.0: an nn.TransformerDecoderLayer with an activation that is a module (nn.GELU()) is copied with ReLU: its
# __setstate__ looks for `activation` among the plain attributes, where a module is not, and puts F.relu there, which
# hides the module. nn.TransformerDecoder copies the layer that it is given, so every layer of it computes ReLU; so does a
# layer that was pickled. The encoder's layer is copied as it is. Nothing is said.
#
# Seen (CPU build): a decoder layer with nn.GELU() and the only layer of an nn.TransformerDecoder made of it differ by
# 0.21; with "gelu", a function, they are the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
x, memory = torch.randn(4, 6, 16), torch.randn(4, 5, 16)


def difference(activation) -> float:
    layer = nn.TransformerDecoderLayer(16, 2, 32, dropout=0.0, activation=activation, batch_first=True)
    copied = nn.TransformerDecoder(layer, 1).layers[0]
    return (layer(x, memory) - copied(x, memory)).abs().max().item()


of_module, of_function = difference(nn.GELU()), difference("gelu")
print(f"torch {torch.__version__}: copied with a module {of_module:.2f}, with a function {of_function:.1e}")
assert of_module > 0.01 and of_function == 0.0
PYTHON
