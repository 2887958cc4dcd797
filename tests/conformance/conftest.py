"""Counts how the toolkit's records compare, for the end of the report."""

from __future__ import annotations

import collections
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key == "tao" and report.when == "call":
                    kind = "template variants" if "test_tao_models" in report.nodeid else "pruning runs"
                    counts[kind][value] += 1
    for kind, counter in sorted(counts.items()):
        terminalreporter.write_line(f"TLT/TAO {kind}: {', '.join(f'{n} {value}' for value, n in sorted(counter.items()))}")
