#!/usr/bin/env python3
"""Many random graphs against the law: a nightly run.

    python tools/dev/fuzz.py [EXAMPLES] [--seed N]          default 500, about a quarter of an hour

A failure prints the smallest graph that shows it: make it a named case of tests/conformance/gallery/.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import subprocess
import sys

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", nargs="?", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of the graphs; a new one by default")
    arguments = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    print(f"{arguments.examples} graphs, seed {arguments.seed}", flush=True)
    chosen = {"TLT_PRUNE_FUZZ_EXAMPLES": str(arguments.examples), "TLT_PRUNE_FUZZ_SEED": str(arguments.seed)}
    command = [sys.executable, "-m", "pytest", "tests/conformance/test_random_graphs.py", "-p", "no:cacheprovider"]
    sys.exit(subprocess.call(command, cwd=root, env={**os.environ, **chosen}))
