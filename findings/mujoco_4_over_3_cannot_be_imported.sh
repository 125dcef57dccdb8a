#!/usr/bin/env bash
# mujoco 4.0.0 is split into mujoco and mujoco-core. `pip install mujoco==4.0.0` over 3.5.0 writes mujoco-core's files first
# and then removes those of the old mujoco, which have the same names: pip says that it succeeded, `pip check` finds
# nothing, and the package cannot be imported. Gymnasium turns that into "MuJoCo is not installed".
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
pip install --force-reinstall --no-deps mujoco==4.0.0 mujoco-core==4.0.0
repaired=$(try)
printf '%s\n' "3.5.0: $before" "4.0.0 over it: $after" "import mujoco: $imported" "reinstalled: $repaired"
test "$before" = works -a "$repaired" = works
grep -q 'MuJoCo is not installed' <<< "$after"
grep -q 'core bindings' <<< "$imported"
