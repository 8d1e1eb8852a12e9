#!/usr/bin/env bash
# Sets up .venv and checks everything: format, lint, types, room order, tests.
#   scripts/test.sh          the fast tests
#   scripts/test.sh --all    the slow ones too (PEFT's own tests, the demo model)
# Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
marks=(-m "not slow")
if [ "${1:-}" = --all ]; then
    marks=(-m "slow or not slow")
    shift
fi
scripts/setup.sh dev
run() { echo "== $*" && ".venv/bin/$1" "${@:2}"; }
run ruff format --check .
run ruff check .
run mypy
run lint-imports
# One worker a core, each with one thread; the tests of a file stay together.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
run python -m pytest -n auto --dist loadfile "${marks[@]}" "$@"
