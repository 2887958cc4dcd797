#!/usr/bin/env python3
"""Many random graphs against the law: a nightly run.

    python tools/dev/fuzz.py [EXAMPLES] [--seed N] [--round N]        default 500, about a quarter of an hour

The graphs are tried in rounds, a process each, so that memory stays bounded and what was tried is known at any time: round
i has the seed N + i, and a line is printed for each. A failure prints the smallest graph that shows it: make it a named case
of tests/conformance/gallery/.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tried(examples: int, seed: int) -> bool:
    """Whether all graphs of a seed obeyed the law; what pytest printed is shown where they did not."""
    command = [sys.executable, "-m", "pytest", "tests/conformance/test_random_graphs.py", "-p", "no:cacheprovider"]
    chosen = {"TLT_PRUNE_FUZZ_EXAMPLES": str(examples), "TLT_PRUNE_FUZZ_SEED": str(seed)}
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **chosen}, capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stdout, result.stderr, sep="\n", flush=True)
    return result.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", nargs="?", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of the first round; a new one by default")
    parser.add_argument("--round", type=int, default=100, help="graphs of a process")
    arguments = parser.parse_args()
    done, seed, failed = 0, arguments.seed, []
    started = time.perf_counter()
    while done < arguments.examples:
        count = min(arguments.round, arguments.examples - done)
        good = tried(count, seed)
        done += count
        if not good:
            failed.append(seed)
        passed = time.perf_counter() - started
        print(f"seed {seed}: {count} graphs, {'clean' if good else 'FAILED'}; {done} so far, {passed:.0f} s", flush=True)
        seed += 1
    print(f"{done} graphs, seeds {arguments.seed} to {seed - 1}: {f'seeds {failed} failed' if failed else 'clean'}.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
