#!/bin/sh
# Find a Python for make.py: that of an active environment, of .venv, or the newest that rlrat supports.
cd "$(dirname "$0")/../.." || exit 2

active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
if [ -n "$active" ]; then
    set -- "$1" "$active/bin/python"
else
    set -- "$1" .venv/bin/python python3.13 python3.12 python3.11 python3
fi
goal=$1
shift
seen=
for python in "$@"; do
    # Asked, not only found: a command of pyenv may be there without its Python.
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || continue
    case $version in
        3.11 | 3.12 | 3.13) exec "$python" scripts/setup/make.py "$goal" "$python" ;;
    esac
    seen=" ($python is $version)"
done
if [ -n "$active" ]; then
    [ -n "${VIRTUAL_ENV:-}" ] && leave="deactivate, or unset VIRTUAL_ENV" || leave="conda deactivate, or conda install python=3.12"
    echo "error: the active environment $active has no Python 3.11, 3.12 or 3.13$seen: leave it ($leave) and type make" \
        "again" >&2
    exit 2
fi
echo "error: rlrat needs Python 3.11, 3.12 or 3.13$seen: install one, such as by apt install python3.12 python3.12-venv, brew" \
    "install python@3.12 or uv python install 3.12, and type make again" >&2
exit 2
