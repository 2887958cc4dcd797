#!/usr/bin/env python3
"""Storms over the scripts: whatever happens to them, every chain must end as an undisturbed one.

    python tools/dev/soak.py [FAULTS] [--seed N]          default 500, about an hour

A chain converts pictures into shards, trains, prunes, retrains, evaluates, infers and exports, on made-up data. Each of its
commands is started again until it ends by itself. Before that, at random:

    kill      SIGKILL, SIGTERM or SIGINT after a random time
    full      the disk is full, from the start or from a random moment on
    locked    nothing can be written
    damage    a file that the command reads (a checkpoint, a model, a shard) is cut, emptied or has a byte changed
    twice     the same command is started two times at once

After each fault: a command that failed said so in one line and ended with the code that schedulers expect; files of finished
commands are what they were; nothing damaged was taken for whole, which shows in what the chain ends with. As root, the chains
live on a small tmpfs, which is filled and made read-only; otherwise these two are left out. Prints a line for each chain and a
table at the end; with --table, it is written to docs/pages/benchmarks/soak.csv, which the manual shows.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator

import pandas as pd
from soak_chain import SPEC, Command, Process, commands, content, left_behind, make_pictures

SIGNALS = {signal.SIGKILL: (-9,), signal.SIGTERM: (143,), signal.SIGINT: (130,)}
TMPFS_MB = 64
TABLE = pathlib.Path(__file__).resolve().parents[2] / "docs/pages/benchmarks/soak.csv"
# A command that cannot end by itself any more.
MOST_SECONDS = 300


class Storm:
    """A chain with its faults, and what came of them."""

    def __init__(self, place: pathlib.Path, source: pathlib.Path, rng: random.Random, *, tmpfs: bool) -> None:
        self.place, self.source, self.rng, self.tmpfs = place, source, rng, tmpfs
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.runs = 0
        self.problems: list[str] = []
        self.broken = False
        """Whether something damaged is there that a command has to make again."""
        kinds = {"kill": 6, "damage": 2, "twice": 1, **({"full": 2, "locked": 1} if tmpfs else {})}
        self.kinds = [kind for kind, weight in kinds.items() for _ in range(weight)]

    @property
    def faults(self) -> int:
        return sum(self.counts.values())

    def chain(self, number: int, most: int, times: list[float] | None) -> tuple[dict[str, object], list[float]]:
        """(what a chain leaves behind, seconds of its commands); `most` faults at most, none without `times`."""
        results = self.place / f"chain{number}"
        results.mkdir()
        spec = self.place / f"chain{number}.yaml"
        spec.write_text(SPEC.format(results=results, source=self.source / "train", val=""))
        steps = commands(spec, results, self.source)
        took, finished = [], {}
        for i, step in enumerate(steps):
            if times is not None:
                step.seconds = times[i]
                while self.faults < most and self.rng.random() < 0.75:
                    self.fault(results, step, steps[: i + 1], finished)
            started = time.perf_counter()
            self.to_the_end(steps[: i + 1])
            self.broken = False
            took.append(time.perf_counter() - started)
            finished |= self.sums(results, step.writes)
        self.check(finished, results, "at the end")
        left = left_behind(results)
        subprocess.run(["rm", "-r", str(results)], check=True)
        return left, took

    def chains(self, faults: int) -> Iterator[int]:
        """Whole chains until there were so many faults; of each, how much was not as it should be."""
        started = time.perf_counter()
        expected, times = self.chain(0, 0, None)
        print("seconds, undisturbed:", ", ".join(f"{x:.1f}" for x in times), flush=True)
        for number in itertools.count(1):
            if self.faults >= faults:
                return
            before = self.faults
            found, _ = self.chain(number, faults, times)
            wrong = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
            outcome = f"differs: {[(x, expected.get(x), found.get(x)) for x in wrong]}" if wrong else "equal"
            passed = time.perf_counter() - started
            print(f"chain {number}: {self.faults - before} faults, {outcome}; {passed:.0f} s", flush=True)
            for problem in self.problems:
                print(f"PROBLEM: {problem}", flush=True)
            yield bool(wrong) + len(self.problems)
            self.problems.clear()

    def to_the_end(self, steps: list[Command]) -> None:
        """Runs the last of some commands until it ends by itself. Where it refuses a damaged file, those before make it again."""
        code, said = self.run(steps[-1])
        if code == 0:
            return
        self.expect_one_line(steps[-1], code, said)
        for step in steps:
            code, said = self.run(step)
            if code:
                self.expect_one_line(step, code, said)
            # What the line says is to be done.
            if code and step.name == "train" and "--restart" in said:
                code, said = self.run(step, "--restart")
            if code and step.name == "convert":
                subprocess.run(["rm", "-r", step.words[step.words.index("-o") + 1]], check=True)
                code, said = self.run(step)
            if code:
                raise SystemExit(f"{step.name} {step.words} does not end any more (code {code}): {said}")

    def run(self, step: Command, *more: str) -> tuple[int, str]:
        self.runs += 1
        process = Process(step, *more)
        code = process.wait(MOST_SECONDS)
        if code is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
            self.problems.append(f"{step.name} hung")
            return 1, process.said()
        return code, process.said()

    def fault(self, results: pathlib.Path, step: Command, steps: list[Command], finished: dict[str, int]) -> None:
        kind = self.rng.choice(self.kinds)
        outcome = getattr(self, f"_{kind}")(results, step, finished)
        if outcome is not None:
            self.counts[kind, outcome] += 1
        self.check(finished, results, f"after {kind} ({outcome}) of {step.name}")

    def _kill(self, results: pathlib.Path, step: Command, finished: dict[str, int]) -> str | None:
        number = self.rng.choice(list(SIGNALS))
        self.runs += 1
        process = Process(step)
        # A fork has the signal handlers of this process until the script has its own.
        code = process.wait(self.rng.uniform(0.1, 1.1 * step.seconds))
        if code is None:
            os.kill(process.pid, number)
            code = process.wait(MOST_SECONDS)
        else:
            number = None
        said = process.said()
        if number is None:
            return None
        if code not in (0, *SIGNALS[number]):
            self.problems.append(f"{step.name} ended with {code} after {signal.Signals(number).name}: {said}")
        if code not in (0, -9):
            self.expect_one_line(step, code, said)
        return f"{signal.Signals(number).name}" if code else "ended before"

    def _full(self, results: pathlib.Path, step: Command, finished: dict[str, int]) -> str | None:
        ballast = self.place / "ballast"
        at_once = self.rng.random() < 0.5
        left = self.rng.choice([0, 4096, self.rng.randrange(2**19)])
        if at_once:
            fill(ballast, left)
        self.runs += 1
        process = Process(step)
        code = None if at_once else process.wait(self.rng.uniform(0, step.seconds))
        if code is None:
            if not at_once:
                fill(ballast, left)
            code = process.wait(MOST_SECONDS)
        ballast.unlink(missing_ok=True)
        return self.refused(step, process, code)

    def _locked(self, results: pathlib.Path, step: Command, finished: dict[str, int]) -> str | None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.place)], check=True)
        self.runs += 1
        process = Process(step)
        code = process.wait(MOST_SECONDS)
        subprocess.run(["mount", "-o", "remount,rw", str(self.place)], check=True)
        return self.refused(step, process, code)

    def refused(self, step: Command, process: Process, code: int | None) -> str:
        if code is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
            self.problems.append(f"{step.name} hung")
            return "hung"
        said = process.said()
        if code:
            self.expect_one_line(step, code, said)
        return "refused" if code else "had room"

    def _damage(self, results: pathlib.Path, step: Command, finished: dict[str, int]) -> str | None:
        there = [x for pattern in step.reads for x in results.glob(pattern) if x.is_file() and not x.name.startswith(".")]
        if not there:
            return None
        path = self.rng.choice(there)
        content = path.read_bytes()
        place = self.rng.randrange(len(content)) if content else 0
        way = self.rng.choice(["cut", "emptied", "changed"])
        changed = bytearray(content)
        if way == "changed" and content:
            changed[place] ^= 1 << self.rng.randrange(8)
        path.write_bytes({"cut": content[:place], "emptied": b"", "changed": bytes(changed)}[way])
        code, said = self.run(step)
        if code:
            self.expect_one_line(step, code, said)
        # What the command made of it is compared at the end of the chain. What it does not make again is put back.
        own = any(path.match(pattern) for pattern in step.writes) or "checkpoints" in path.parts
        if own:
            self.broken = True
        else:
            path.write_bytes(content)
        return "refused" if code else "not read, or mended"

    def _twice(self, results: pathlib.Path, step: Command, finished: dict[str, int]) -> str | None:
        self.runs += 2
        both = [Process(step), Process(step)]
        codes = [x.wait(MOST_SECONDS) for x in both]
        texts = [x.said() for x in both]
        for code, said in zip(codes, texts, strict=True):
            if code:
                self.expect_one_line(step, code, said)
                if "Another process is" not in said and not self.broken:
                    self.problems.append(f"{step.name}, started twice: {said}")
        if codes.count(0) == 0 and not self.broken:
            self.problems.append(f"{step.name}, started twice: none ended well: {texts}")
        return "one refused" if any(codes) else "one after the other"

    def expect_one_line(self, step: Command, code: int, said: str) -> None:
        lines = said.strip().splitlines()
        if len(lines) != 1 or not lines[0].startswith(f"tlt-{step.name}: error: "):
            self.problems.append(f"{step.name} ended with {code} and said: {said[-2000:]}")

    @staticmethod
    def sums(results: pathlib.Path, patterns: tuple[str, ...]) -> dict[str, int]:
        files = [x for pattern in patterns for x in results.glob(pattern) if x.is_file()]
        return {str(x): zlib.crc32(content(x)) for x in files}

    def check(self, finished: dict[str, int], results: pathlib.Path, when: str) -> None:
        for name, checksum in finished.items():
            path = pathlib.Path(name)
            if not path.is_file():
                self.problems.append(f"{path.relative_to(results)} is lost {when}")
            elif zlib.crc32(content(path)) != checksum:
                self.problems.append(f"{path.relative_to(results)} changed {when}")


def soak_rows(table: pd.DataFrame) -> list[str]:
    """The rows of the manual's table."""
    rows = [f"| {row['fault']} | {row['outcome']} | {row['times']} |" for _, row in table.iterrows()]
    return [*rows, f"| all | | {table['times'].sum()} |"]


def fill(path: pathlib.Path, left: int) -> None:
    """Writes a file that leaves so many bytes on its disk."""
    disk = os.statvfs(path.parent)
    with contextlib.suppress(OSError), path.open("wb") as file:
        for _ in range(max(0, disk.f_bavail * disk.f_frsize - left) // 4096):
            file.write(bytes(4096))


@contextlib.contextmanager
def ground() -> Iterator[tuple[pathlib.Path, bool]]:
    """(an empty folder, whether it is a disk of its own)."""
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name) / "disk"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(place)], capture_output=True)
        try:
            yield place, done.returncode == 0
        finally:
            if done.returncode == 0:
                subprocess.run(["umount", "-l", str(place)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="?", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--table", action="store_true", help="replace the table of the manual")
    arguments = parser.parse_args()
    print(f"{arguments.faults} faults, seed {arguments.seed}", flush=True)
    # Started in the background, a process would not heed SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    import_first()
    with tempfile.TemporaryDirectory() as data, ground() as (place, tmpfs):
        make_pictures(pathlib.Path(data))
        storm = Storm(place, pathlib.Path(data), random.Random(arguments.seed), tmpfs=tmpfs)
        chains = differing = 0
        try:
            for wrong in storm.chains(arguments.faults):
                chains += 1
                differing += wrong
        except KeyboardInterrupt:
            print("Interrupted.")
    table = pd.DataFrame([{"fault": kind, "outcome": end, "times": n} for (kind, end), n in sorted(storm.counts.items())])
    print(table.to_string(index=False))
    if arguments.table:
        table.to_csv(TABLE, index=False)
    print(f"{storm.faults} faults in {storm.runs} runs of {chains} chains; {differing} differed, lost or said too much.")
    sys.exit(bool(differing))


def import_first() -> None:
    """What takes seconds to import, without an operation: a fork has none of the threads that one starts."""
    import keras  # noqa: F401
    import matplotlib.pyplot as plt  # noqa: F401
    import onnxruntime  # noqa: F401
    import tensorflow as tf  # noqa: F401
    import tf2onnx  # noqa: F401


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    main()
