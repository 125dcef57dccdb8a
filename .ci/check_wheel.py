"""Fail unless a wheel has what git has of rlrat, agents and scripts, and is small: `check_wheel.py WHEEL`."""

import subprocess
import sys
import zipfile
from pathlib import Path

MOST_BYTES = 12_000_000  # besides the packaged data
LEFT_OUT = ("scripts/benchmarks/", "scripts/setup/")


def main(wheel: str) -> int:
    listed = subprocess.run(
        ["git", "ls-files", "rlrat", "agents", "scripts"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    wanted = {
        name if name.startswith("rlrat/") else f"rlrat/{name}"
        for name in listed
        if not name.startswith(LEFT_OUT) and not name.endswith((".c", ".inc"))
    }
    with zipfile.ZipFile(wheel) as archive:
        files = [file for file in archive.infolist() if ".dist-info/" not in file.filename]
    names = {file.filename for file in files if not file.filename.endswith((".so", ".pyd"))}
    size = sum(file.compress_size for file in files if not file.filename.startswith("rlrat/datasets/packaged/"))
    for name in sorted(wanted - names):
        print(f"the wheel lacks {name}")
    for name in sorted(names - wanted):
        print(f"the wheel has {name}, which git has not")
    print(f"{len(names)} files in the wheel, {size} bytes besides the data")
    return int(names != wanted or size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
