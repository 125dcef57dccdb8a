#!/usr/bin/env bash
# SciPy 1.17.1: scipy.interpolate.AAA on 2001 samples of max(x, 0) on [-5, 5] puts real poles between the samples at every
# size from 3 to 22 terms, without a warning: the rational is infinite there, where the function is at most 5. Its
# clean_up is on; the residues are too large for it. A best uniform approximation of the same size has none.
#
# Seen: the sizes of 3 to 22 that have a real pole inside the interval, and the warnings: all, and none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/bin/python" - 2> "$folder/warnings" <<'CODE' | tee "$folder/seen"
import warnings
import numpy as np
from scipy.interpolate import AAA
x = np.linspace(-5, 5, 2001)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found = [AAA(x, np.maximum(x, 0), max_terms=k).poles() for k in range(3, 23)]
said = [one for one in said if "converge" not in str(one.message)]
real = [bool(np.any((np.abs(p.imag) < 1e-9) & (np.abs(p.real) < 5))) for p in found]
print("sizes with a real pole inside:", sum(real), "of", len(real))
print("warnings of poles:", len(said))
CODE
diff "$folder/seen" - <<'SEEN'
sizes with a real pole inside: 20 of 20
warnings of poles: 0
SEEN
