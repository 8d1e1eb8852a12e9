#!/usr/bin/env bash
# Sets up .venv and runs the main job: QTHA and LoRA on a real language model, before and after.
# Further arguments go to `qpeft train`, for example: scripts/demo.sh --set training.steps=50
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh demo
.venv/bin/qpeft train recipes/math.yaml "$@"
