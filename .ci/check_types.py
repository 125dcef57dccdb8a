"""Fail unless pyright knows all types of an installed rlrat: of `rlrat.__all__`, and of what is public below."""

import json
import subprocess
import sys

import rlrat


def main() -> int:
    command = ["pyright", "--verifytypes", "rlrat", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["typeCompleteness"]
    except (ValueError, KeyError):
        said = (done.stderr or done.stdout).strip()[-500:] or "nothing"
        print(f"{' '.join(command)} found no types and ended with {done.returncode}; it said {said}")
        return 1
    symbols = [symbol for symbol in found["symbols"] if symbol["isExported"]]
    seen = {symbol["name"] for symbol in symbols} | {module["name"] for module in found["modules"]}
    missing = {f"rlrat.{name}" for name in rlrat.__all__} - seen
    unknown = [symbol for symbol in symbols if not symbol["isTypeKnown"]]
    for symbol in unknown:
        reasons = [line["message"].replace("\n", " ") for line in symbol["diagnostics"]]
        print(f"{symbol['name']}: {'; '.join(reasons) or 'a part of it has no type'}")
    for name in sorted(missing):
        print(f"{name} is not among what pyright sees")
    print(f"{found['completenessScore']:.1%} of {len(symbols)} public names have a type")
    return int(bool(unknown or missing))


if __name__ == "__main__":
    sys.exit(main())
