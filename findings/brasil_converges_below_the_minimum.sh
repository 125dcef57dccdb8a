#!/usr/bin/env bash
# baryrat 2.1.2: brasil(abs, (-1, 1), 4) says that it has converged with an error of 0.00608. The least error that a
# rational of type (4, 4) can have is 0.00850148 (Varga, Ruttan and Carpenter, 1993), and 200,001 samples of the result
# find 0.018. A warning is printed; info.converged is True all the same, and info.error is the error in its own nodes.
# For type (6, 6) the same: 0.00158 is said, 0.00228211 possible, 0.006 sampled. The gain of a best approximation of SiLU
# of type (5, 4), which is R(x) / x far out, is -3.9e14; R(1e6) / 1e6 is 0.50001.
#
# Seen: three figures each, from a type (4, 4), a type (6, 6) and SiLU.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet baryrat==2.1.2 scipy==1.17.1 mpmath==1.3.0
"$folder/bin/python" - 2> "$folder/warnings" <<'CODE' | grep -v '^warning' | tee "$folder/seen"
import numpy as np, baryrat
x = np.linspace(-1, 1, 200_001)
for n, least in ((4, 0.00850148), (6, 0.00228211)):
    r, info = baryrat.brasil(np.abs, (-1, 1), n, info=True)
    sampled = np.abs(np.abs(x) - r(x)).max()
    print(n, "converged" if info.converged else "not", info.error < least, sampled > 2 * least)
r = baryrat.brasil(lambda x: x / (1 + np.exp(-x)), (-5, 5), (5, 4))
print("gain", abs(r.gain()) > 1e6, "slope", round(float(r(np.array([1e6]))[0] / 1e6), 3))
CODE
diff "$folder/seen" - <<'SEEN'
4 converged True True
6 converged True True
gain True slope 0.5
SEEN
