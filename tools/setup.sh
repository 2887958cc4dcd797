#!/usr/bin/env bash
# Makes .venv with everything the project needs, once. Sourced by demo.sh and test.sh:
# afterwards $PYTHON runs in that environment. Set TLT_PRUNE_VENV to put it elsewhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "error: $*" >&2; exit 1; }

# Prints the Python to make an environment with.
base_python() {
    local base=${PYTHON_BASE:-python3} version='import sys, venv, ensurepip; print(*sys.version_info[:2])' same
    # The system's own, where it is the same: it is compiled with all optimizations. One that pyenv compiled is a tenth slower.
    if [ -z "${PYTHON_BASE:-}" ] && same=$(/usr/bin/python3 -c "$version" 2>/dev/null) &&
        [ "$same" = "$(python3 -c "$version" 2>/dev/null)" ]; then
        base=/usr/bin/python3
    fi
    command -v "$base" >/dev/null || fail "there is no '$base'. Install Python 3.11 or newer, or set PYTHON_BASE to one."
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "'$base' is $("$base" --version 2>&1). Python 3.11 or newer is needed; set PYTHON_BASE to one."
    "$base" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "'$base' has no venv module. On Debian and Ubuntu: apt-get install python3-venv."
    echo "$base"
}

venv=${TLT_PRUNE_VENV:-.venv}
PYTHON=$venv/bin/python
stamp=$venv/.installed
wanted=$(cat setup.cfg constraints.txt | cksum)
if [ ! -x "$PYTHON" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Setting up $venv (a few minutes, once) ..."
    # One that works stays, whichever Python it was made with. A folder that is no environment is not cleared.
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        base=$(base_python)
        options=()
        [ ! -e "$venv/pyvenv.cfg" ] || options=(--clear)
        "$base" -m venv "${options[@]}" "$venv" || fail "cannot create the virtual environment $venv."
    fi
    wish=(--constraint constraints.txt --editable '.[dev]')
    # uv installs the same in a quarter of the time. pip does it where uv cannot: pip knows what a machine says of registries.
    # What is imported is compiled then: TensorFlow has thousands of modules that are not, and take a minute.
    { "$PYTHON" -m pip install --quiet --disable-pip-version-check uv &&
        "$venv/bin/uv" pip install --quiet --python "$PYTHON" "${wish[@]}"; } 2>/dev/null ||
        "$PYTHON" -m pip install --quiet --no-compile --disable-pip-version-check "${wish[@]}" ||
        fail "pip could not install the packages. A package registry must be reachable; see the message above."
    echo "$wanted" >"$stamp"
fi
# Where it is set, every process compiles TensorFlow's modules again: ten seconds each.
unset PYTHONDONTWRITEBYTECODE
export PYTHON PATH="$(cd "$venv/bin" && pwd):$PATH"
