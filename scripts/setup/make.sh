#!/bin/sh
# Find a Python for make.py: that of an active environment, of .venv, or the newest that rlrat supports.
cd "$(dirname "$0")/../.." || exit 2

if [ -n "${VIRTUAL_ENV:-}" ]; then
    set -- "$1" "$VIRTUAL_ENV/bin/python"
elif [ -n "${CONDA_PREFIX:-}" ]; then
    set -- "$1" "$CONDA_PREFIX/bin/python"
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
echo "error: rlrat needs Python 3.11, 3.12 or 3.13$seen: install one, such as by apt install python3.12 python3.12-venv, brew" \
    "install python@3.12 or uv python install 3.12, and type make again" >&2
exit 2
