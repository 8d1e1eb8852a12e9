#!/usr/bin/env bash
# Makes .venv with qpeft and the given extras or groups: scripts/setup.sh demo | dev
# QPEFT_TORCH says which torch to install where none is there (a version, or a wheel for your GPU).
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-demo}

python=""
for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" > /dev/null &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "qpeft needs Python 3.11 or newer; none was found on PATH." >&2
    exit 1
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet "pip>=25.1,<26.2"
# torch first and by itself, so that no other package chooses its build.
.venv/bin/python -c 'import torch' 2> /dev/null ||
    "${pip[@]}" install --quiet "${QPEFT_TORCH:-torch==2.13.0}"
case $kind in
    demo) "${pip[@]}" install --quiet -e '.[demo]' ;;
    dev) "${pip[@]}" install --quiet -e '.[demo,quantization]' --group dev ;;
    *)
        echo "scripts/setup.sh: unknown kind '$kind'; use demo or dev." >&2
        exit 1
        ;;
esac
