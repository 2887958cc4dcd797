#!/usr/bin/env bash
# Everything that must hold: lint, format, types, import contracts, all tests, and those of graph, pruning and retraining
# once more on JAX. Arguments go to pytest and choose what to run instead.
source "$(dirname "$0")/setup.sh"
if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi
ruff check .
ruff format --check .
mypy
lint-imports --config setup.cfg
# Compiled quickly rather than well: hardly any program runs twice.
KERAS_BACKEND=jax XLA_FLAGS=--xla_backend_optimization_level=0 "$PYTHON" -m pytest tests/graph tests/pruning tests/training/test_retrain.py -m "not slow" -n "${TLT_PRUNE_TEST_WORKERS:-2}"
exec "$PYTHON" -m pytest -m "not slow" -n "${TLT_PRUNE_TEST_WORKERS:-2}" --dist worksteal
