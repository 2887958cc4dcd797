"""Typed errors. Each message says what was expected, what was received, where, and what to do."""

import re

# Longer ones are cut: a file may hold anything, and a message quotes it.
_LONGEST = 1000


def escaped(text: str, kept: str = "") -> str:
    """Text for people: what would move the cursor, color the terminal or break the line is escaped, but for what is `kept`."""
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text
    )


class TltPruneError(Exception):
    """Base class of every error this package raises on purpose. Its message is one line that can be shown anywhere."""

    def __init__(self, message: str = "") -> None:
        line = escaped(message)
        super().__init__(line if len(line) <= _LONGEST else f"{line[:_LONGEST].rpartition(' ')[0] or line[:_LONGEST]} ...")


class UnsupportedModelError(TltPruneError, TypeError):
    """The object is not a model whose graph can be read (a subclassed or unbuilt model, say)."""


class RuleError(TltPruneError):
    """A layer rule returned something that does not describe its call."""


class PlanError(TltPruneError, ValueError):
    """A pruning request or plan is malformed, or does not fit the model it is applied to."""


class LawError(TltPruneError):
    """The pruned model differs from the original with the removed channels' consumers zeroed."""


class SpecError(TltPruneError, ValueError):
    """A spec file or override names an unknown key or holds a value of the wrong kind."""


class DataError(TltPruneError, ValueError):
    """A dataset cannot be read as described: the message names the file or folder."""


class MissingPackageError(TltPruneError, ImportError):
    """An optional package is not installed: the message names it and the extra that brings it."""


class TrainingError(TltPruneError):
    """A training cannot go on: its loss is not finite, or its folder belongs to another training."""


class WorkersError(TltPruneError):
    """The processes of a job on several machines or GPUs cannot be started together."""


class FolderInUseError(TltPruneError):
    """Another process writes to the folder."""


class NotReplacedError(TltPruneError):
    """An output would replace a file or folder of another kind; it was left as it is."""


class ExportError(TltPruneError):
    """An exported file does not reproduce the Keras model, or cannot be written."""


class QuantizationError(TltPruneError, ValueError):
    """A model cannot be quantized, or a calibration set or cache is not what it should be."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """A library's message as part of one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:limit]
