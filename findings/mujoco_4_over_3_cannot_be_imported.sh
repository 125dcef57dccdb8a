#!/usr/bin/env bash
# mujoco 4.0.0 is split into mujoco and mujoco-core. After `pip install mujoco==4.0.0` over 3.5.0 files of mujoco-core are
# missing that the old mujoco had under the same names. pip says that it succeeded, `pip check` finds nothing, and the
# package cannot be imported; Gymnasium 1.4.0 makes "MuJoCo is not installed" of that. Both reinstalled, it works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cd "$folder"
pip() { venv/bin/pip "$@" --quiet; }
try() {
    venv/bin/python -W ignore -c 'import gymnasium; gymnasium.make("Hopper-v5").close()' > out 2>&1 && echo works || tail -1 out
}
pip install mujoco==3.5.0 'gymnasium[mujoco]==1.4.0' numpy==2.4.6
before=$(try)
pip install mujoco==4.0.0
venv/bin/pip check
after=$(try)
imported=$(venv/bin/python -c 'import mujoco' 2>&1 | grep '^ImportError' || true)
missing=$(venv/bin/python -c 'import importlib.metadata as found
print(sum(not file.locate().exists() for file in found.files("mujoco-core")))')
pip install --force-reinstall --no-deps mujoco==4.0.0 mujoco-core==4.0.0
repaired=$(try)
printf '%s\n' "3.5.0: $before" "4.0.0 over it: $after" "import mujoco: $imported" "missing of mujoco-core: $missing files" "reinstalled: $repaired"
test "$missing" -gt 0 -a "$before" = works -a "$repaired" = works
grep -q 'MuJoCo is not installed' <<< "$after"
grep -q 'core bindings' <<< "$imported"
