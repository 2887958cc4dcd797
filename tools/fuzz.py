#!/usr/bin/env python3
"""Many random graphs against the law: a nightly run.

    python tools/fuzz.py [EXAMPLES]          default 500, about a quarter of an hour

A failure prints the smallest graph that shows it: make it a named case of tests/conformance/gallery.py.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    examples = sys.argv[1] if len(sys.argv) > 1 else "500"
    command = [sys.executable, "-m", "pytest", "tests/conformance/test_random_graphs.py", "-p", "no:cacheprovider"]
    sys.exit(subprocess.call(command, cwd=root, env={**os.environ, "TLT_PRUNE_FUZZ_EXAMPLES": examples}))
