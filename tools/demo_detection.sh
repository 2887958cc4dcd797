#!/usr/bin/env bash
# Detection on real handwritten digits: train, prune, retrain, evaluate at every step, export, and one table with pictures.
# Usage: tools/demo_detection.sh [results folder] [seed]
source "$(dirname "$0")/setup.sh"
exec "$PYTHON" tools/demos/demo_detection.py "${1:-results/detection}" "${2:-1}"
