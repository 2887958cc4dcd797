"""Whole files and folders: written in a folder of their own beside their place, then renamed, so that nobody ever finds half of
one; several of them together, or none. Of several workers, the chief's outputs alone come to their places."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping

from tlt_prune.errors import FolderInUseError, NotReplacedError
from tlt_prune.io import interrupt, workers

Path = str | pathlib.Path

_MARKER = "tlt_prune_folder.json"
_STAGE, _STAGE_TO_BE = ".tlt_prune-", ".tlt_prune_new-"
# In a stage: locked as long as the process lives that writes there.
_ALIVE = "alive"
# Seconds.
_LONG_AGO = 3600
# Names of files are shorter than this on every system.
_LONGEST_NAME = 200


def place_of(path: Path) -> pathlib.Path:
    """The path behind a name, with links resolved: writing to a link writes to its target."""
    return pathlib.Path(os.path.realpath(path))


def same(a: Path, b: Path) -> bool:
    """Whether two names lead to one file or folder, whatever they are called."""
    try:
        return os.path.samefile(a, b)
    # One of them does not exist yet.
    except OSError:
        return place_of(a) == place_of(b)


class _Outputs:
    """Outputs that are written but not yet in their places."""

    def __init__(self) -> None:
        self._stages: dict[pathlib.Path, pathlib.Path] = {}
        self._handles: list[int] = []
        self._targets: dict[pathlib.Path, bool] = {}
        """Target -> whether it is a folder."""

    def add(self, path: Path, *, folder: bool) -> pathlib.Path:
        """The path to write to for the output `path`: it ends in the same name, so that writers see the final one."""
        target = place_of(path)
        if any(target.is_relative_to(stage) for stage in self._stages.values()):
            # Part of what is being written already.
            return target
        if folder:
            _check_ours(target, path)
        elif target.exists() and not target.is_file():
            raise NotReplacedError(f"{path} is a folder or a device, and stays. Expected the name of a file to write.")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent not in self._stages:
            remove_leftovers(target.parent)
            stage, handle = _new_stage(target.parent)
            self._stages[target.parent] = stage
            self._handles.append(handle)
            for name in ("new", "old"):
                (stage / name).mkdir()
        self._targets[target] = folder
        return self.new(target)

    def drop(self, path: Path) -> None:
        """Forgets a target whose writing failed."""
        self._targets.pop(place_of(path), None)

    def new(self, target: pathlib.Path) -> pathlib.Path:
        return self._stages[target.parent] / "new" / target.name

    def holds(self, target: pathlib.Path) -> bool:
        return target in self._targets

    def publish(self) -> None:
        """Everything into its place; where that fails for one, what was there before is put back everywhere."""
        for target, folder in self._targets.items():
            if not self.new(target).exists():
                raise FileNotFoundError(errno.ENOENT, "was not written", str(target))
            if folder:
                _sign(self.new(target))
                # Somebody may have put a file there since.
                _check_ours(target, target)
        if not workers.is_chief():
            return
        done: list[pathlib.Path] = []
        with interrupt.held():
            try:
                for target in self._targets:
                    done.append(target)
                    self._replace(target)
            except BaseException:
                for target in reversed(done):
                    self._restore(target)
                raise

    def _replace(self, target: pathlib.Path) -> None:
        old = self._old(target)
        if target.is_dir():
            os.rename(target, old)
        elif target.exists():
            try:
                os.link(target, old)
            # A file system without hard links.
            except OSError:
                shutil.copy2(target, old)
        os.replace(self.new(target), target)

    def _restore(self, target: pathlib.Path) -> None:
        if not self.new(target).exists() and target.exists():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        if self._old(target).exists() and not target.exists():
            os.rename(self._old(target), target)

    def _old(self, target: pathlib.Path) -> pathlib.Path:
        return self._stages[target.parent] / "old" / target.name

    def discard(self) -> None:
        """Removes what is not in its place."""
        for stage in self._stages.values():
            shutil.rmtree(stage, ignore_errors=True)
        while self._handles:
            os.close(self._handles.pop())


_current: contextvars.ContextVar[_Outputs | None] = contextvars.ContextVar("outputs", default=None)
_alive: list[_Outputs] = []


@contextlib.contextmanager
def together() -> Iterator[None]:
    """All files and folders that are written in the block appear when it ends well, and none of them when it does not."""
    if _current.get() is not None:
        yield
        return
    outputs = _Outputs()
    _alive.append(outputs)
    token = _current.set(outputs)
    try:
        yield
        outputs.publish()
    finally:
        _current.reset(token)
        outputs.discard()
        _alive.remove(outputs)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Excludes files that the block writes from the outer `together`: scratch files, and caches that stay in any case."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def discard_all() -> None:
    """Removes the unfinished outputs of a process that is about to be ended."""
    for outputs in _alive:
        outputs.discard()


interrupt.at_stop(discard_all)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[pathlib.Path]:
    """A name to write to; it becomes `path` when the block ends well (the outermost `together`, if there is one), and vanishes
    when not.

    Raises:
        NotReplacedError: there is a folder or a device of that name.
    """
    with _staged(path, folder=False) as staged:
        yield staged


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[pathlib.Path]:
    """The same for a folder, which the block makes. One that is there is replaced if it was written so, and nothing was added.

    Raises:
        NotReplacedError: it holds something else.
    """
    with _staged(path, folder=True) as staged:
        yield staged


@contextlib.contextmanager
def _staged(path: Path, *, folder: bool) -> Iterator[pathlib.Path]:
    with together():
        outputs = _current.get()
        assert outputs is not None
        staged = outputs.add(path, folder=folder)
        try:
            yield staged
        except BaseException:
            outputs.drop(path)
            raise


def _new_stage(folder: pathlib.Path) -> tuple[pathlib.Path, int]:
    """(a folder for outputs that belong into `folder`, a handle that keeps others from removing it)."""
    new = pathlib.Path(tempfile.mkdtemp(prefix=_STAGE_TO_BE, dir=folder))
    handle = os.open(new / _ALIVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # On a file system without locks, nobody finds out that this process has ended.
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Under its name it is locked from the first moment.
    stage = new.with_name(new.name.replace(_STAGE_TO_BE, _STAGE, 1))
    os.rename(new, stage)
    return stage, handle


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what processes that were killed left of their outputs in a folder."""
    for left in folder.glob(f"{_STAGE}*"):
        if _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob(f"{_STAGE_TO_BE}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LONG_AGO:
                shutil.rmtree(left, ignore_errors=True)


def _is_left(stage: pathlib.Path) -> bool:
    """Whether the process that writes there has ended."""
    try:
        handle = os.open(stage / _ALIVE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def written(path: Path) -> pathlib.Path:
    """The present path of a file that was written in this `together` and is not yet in its place."""
    outputs, target = _current.get(), place_of(path)
    return outputs.new(target) if outputs is not None and outputs.holds(target) else pathlib.Path(path)


def _entries(folder: pathlib.Path) -> list[str]:
    return sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*") if x != folder / _MARKER)


def _sign(folder: pathlib.Path) -> None:
    (folder / _MARKER).write_text(json.dumps({"entries": _entries(folder)}), "utf-8")


def _check_ours(target: pathlib.Path, said: Path) -> None:
    """Raises NotReplacedError where a folder holds what this package did not write."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        known = set(json.loads((target / _MARKER).read_text("utf-8"))["entries"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotReplacedError(
            f"{said} is no earlier export (there is no {_MARKER} in it) and stays as it is. Choose another folder."
        ) from error
    foreign = [x for x in _entries(target) if x not in known]
    if foreign:
        raise NotReplacedError(
            f"{said} holds {foreign[0]}, which no export wrote, and stays as it is. Move that away, or choose another folder."
        )


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with whole_file(path) as staged:
        staged.write_text(text, "utf-8")


def append_line(path: Path, line: str) -> None:
    """Adds a line to a text file in UTF-8, at once."""
    if workers.is_chief():
        with pathlib.Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def output_folder(path: Path) -> pathlib.Path:
    """A folder that exists and can be written, or an OSError that names it, before hours of work."""
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def output_file(path: Path) -> pathlib.Path:
    """The same for a file that will be written: a name as long as its own is tried."""
    path = pathlib.Path(path)
    output_folder(path.parent)
    handle, tried = tempfile.mkstemp(prefix=path.name[:-8] or ".", dir=path.parent)
    os.close(handle)
    os.unlink(tried)
    return path


def add_to_zip(path: pathlib.Path, name: str, content: bytes) -> None:
    """Adds a member to a .keras file, which is a zip archive; Keras ignores members it does not know."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)


def read_from_zip(path: pathlib.Path, name: str, limit: int = 2**24) -> bytes | None:
    """A member of a zip archive; None where the file is none, or has none of that name.

    Raises:
        ValueError: the member is there and cannot be read, or has more than `limit` bytes.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if name not in archive.namelist():
                return None
            size = archive.getinfo(name).file_size
            if size > limit:
                raise ValueError(f"{name} has {size:,} bytes; expected at most {limit:,}")
            return archive.read(name)
    # Encrypted, of an unknown compression, or damaged.
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error


@contextlib.contextmanager
def locked(folder: pathlib.Path, what: str) -> Iterator[None]:
    """Keeps other processes out of a folder; the lock ends with the process, however it ends. Of several workers, the chief has
    it.

    Raises:
        FolderInUseError: another process holds it; the message says `what` it does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / ".lock", f"Another process is {what} in {folder}. Wait for it to end, or choose another folder (-o)."):
        yield


@contextlib.contextmanager
def claimed(paths: Iterable[Path], what: str) -> Iterator[None]:
    """Keeps other processes from writing to the same places.

    Raises:
        FolderInUseError: another process does; the message says `what` it does.
    """
    with contextlib.ExitStack() as stack:
        for target in sorted({place_of(x) for x in paths}):
            target.parent.mkdir(parents=True, exist_ok=True)
            refusal = f"Another process is {what} {target}. Wait for it to end, or choose another place (-o)."
            stack.enter_context(_lock(target.with_name(f".{target.name[:_LONGEST_NAME]}.lock"), refusal))
        yield


@contextlib.contextmanager
def _lock(path: pathlib.Path, refusal: str) -> Iterator[None]:
    if not workers.is_chief():
        yield
        return
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise FolderInUseError(refusal) from error
        # Its holder may have removed it between our opening and our locking it: then it keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False)):
                break
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
