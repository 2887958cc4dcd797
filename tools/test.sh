#!/usr/bin/env bash
# Everything that must hold: lint, format, types, import contracts, all tests, and those of graph, pruning and retraining
# once more on JAX. Arguments go to pytest and choose what to run instead.
source "$(dirname "$0")/setup.sh"
if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi
workers=${TLT_PRUNE_TEST_WORKERS:-2}
# They take one core for a minute, beside the tests on JAX.
checks() { ruff check . && ruff format --check . && mypy && lint-imports --config setup.cfg; }
report=$(mktemp)
trap 'rm -f "$report"' EXIT
checks >"$report" 2>&1 &
checking=$!
# Compiled quickly rather than well: hardly any program runs twice.
failed=0
KERAS_BACKEND=jax XLA_FLAGS=--xla_backend_optimization_level=0 "$PYTHON" -m pytest tests/graph tests/pruning tests/training/test_retrain.py tests/training/test_student.py -m "not slow and not one_backend" -n "$workers" || failed=1
wait "$checking" || failed=1
cat "$report"
[ "$failed" = 0 ] || fail "lint, types, import contracts or the tests on JAX failed: see above."
"$PYTHON" -m pytest -m "not slow" -n "$workers" --dist worksteal
