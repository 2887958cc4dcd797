#!/usr/bin/env bash
# Everything that must hold: lint, format, types, import contracts, all tests. Arguments go to pytest.
source "$(dirname "$0")/setup.sh"
ruff check .
ruff format --check .
mypy
lint-imports --config setup.cfg
exec "$PYTHON" -m pytest -m "not slow" "$@"
