#!/usr/bin/env bash
# torch 2.13.0: a checkpoint is a zip archive that keeps a CRC-32 of every tensor, and torch.load does not compare it. A
# bit that a disk or a copy turned over among a tensor's bytes gives another tensor, with no error and no warning;
# Python's zipfile names the damaged member of the same file.
#
# Seen: of a thousand ones, one is loaded as 0.5 (bit 23 of 0x3f800000), and zipfile.ZipFile.testzip() names data/0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import struct
import zipfile
from pathlib import Path

import torch

path = Path("weights.pt")
torch.save({"weight": torch.ones(1000)}, path)
content = bytearray(path.read_bytes())
first = content.find(struct.pack("<f", 1.0) * 1000)
content[first + 4 * 500 + 2] ^= 0x80
path.write_bytes(content)

loaded = torch.load(path, weights_only=True)["weight"]
with zipfile.ZipFile(path) as archive:
    named = archive.testzip()
print(f"torch {torch.__version__}: element 500 is {loaded[500]}, zipfile names {named}")
assert loaded[500] == 0.5 and loaded.sum() == 999.5 and named.endswith("data/0")
PYTHON
