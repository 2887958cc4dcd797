#!/usr/bin/env bash
# The main job on real pictures: train, prune, retrain, evaluate at every step, export, and one table at the end.
# Usage: tools/demo.sh [results folder] [seed]
source "$(dirname "$0")/setup.sh"
exec "$PYTHON" tools/demos/demo.py "${1:-results}" "${2:-1}"
