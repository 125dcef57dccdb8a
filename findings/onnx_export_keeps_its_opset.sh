#!/usr/bin/env bash
# Ask PyTorch's ONNX exporter for an old operator set.
#
# Expected of torch.onnx.export(..., opset_version=13): a file of operator set 13, or an error.
# Happens: of a network with Tanh it is 13; of the same network with ReLU it is 18, whatever the runtime that asked for 13
# can read. The call returns as always and Python warns of nothing: that the conversion failed stands only in the log
# (no adapter for Relu from version 14 down). Whoever needs an operator set reads it from the file afterwards.
# Versions: torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, numpy 2.4.6, Python 3.11.7.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 numpy==2.4.6
"$folder/venv/bin/python" - 2> "$folder/log" << 'EOF'
import warnings

import torch




def operator_set(activation: torch.nn.Module) -> int:
    network = torch.nn.Sequential(torch.nn.Linear(11, 64), activation, torch.nn.Linear(64, 3)).eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        program = torch.onnx.export(network, (torch.zeros(1, 11),), opset_version=13, dynamo=True, verbose=False)
    assert not [one for one in said if "opset" in str(one.message).lower()], said
    return {one.domain: one.version for one in program.model_proto.opset_import}[""]


found = {type(one).__name__: operator_set(one) for one in (torch.nn.Tanh(), torch.nn.ReLU())}
print(f"asked for operator set 13, and got {found}")
assert found == {"Tanh": 13, "ReLU": 18}, found
EOF
grep -q "No Adapter From Version \$14 for Relu" "$folder/log"
