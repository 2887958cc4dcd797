"""Files that appear whole, together, in place of nothing that is somebody else's."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
from typing import Any

import pytest

from tlt_prune.errors import FolderInUseError, NotReplacedError
from tlt_prune.io import files


def tree(folder: pathlib.Path) -> dict[str, Any]:
    return {x.relative_to(folder).as_posix(): x.read_bytes() if x.is_file() else None for x in sorted(folder.rglob("*"))}


def _write_slowly(path: pathlib.Path, text: str, barrier: Any) -> None:
    with files.whole_file(path) as staged:
        staged.write_text(text)
        barrier.wait(timeout=30)


def test_two_writers_to_one_file_both_end_whole(tmp_path: pathlib.Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(2)
    both = [fork.Process(target=_write_slowly, args=(tmp_path / "x.txt", text, barrier)) for text in ("a" * 999, "b" * 999)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "x.txt").read_text() in ("a" * 999, "b" * 999)
    assert list(tree(tmp_path)) == ["x.txt"]


@pytest.mark.parametrize("name", [".x.partial.txt", ".x.txt.partial", ".tlt_prune-stranger", ".x.old"])
def test_what_is_somebody_elses_stays(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text("mine")
    files.write_text(tmp_path / "x.txt", "new")
    assert tree(tmp_path) == {name: b"mine", "x.txt": b"new"}


def test_a_link_is_written_through(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/real.txt").write_text("old")
    for link, target in (("link.txt", "elsewhere/real.txt"), ("dangling.txt", "elsewhere/new.txt")):
        (tmp_path / link).symlink_to(tmp_path / target)
        files.write_text(tmp_path / link, "new")
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / target).read_text() == "new"


@pytest.mark.parametrize("length", [1, 8, 200, 254])
def test_names_of_any_length(length: int, tmp_path: pathlib.Path) -> None:
    files.output_file(tmp_path / ("n" * length))
    files.write_text(tmp_path / ("n" * length), "x")
    assert list(tree(tmp_path)) == ["n" * length]
    with pytest.raises(OSError, match="too long"):
        files.output_file(tmp_path / ("n" * 256))


def test_a_folder_or_a_device_is_no_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(NotReplacedError, match="is a folder or a device"), files.whole_file(tmp_path / name):
            pytest.fail("it must not get as far as this")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["folder", "pipe"]


def _write_all(folder: pathlib.Path) -> None:
    with files.together():
        files.write_text(folder / "a.txt", "new a")
        files.write_text(folder / "b.txt", "new b")
        with files.whole_folder(folder / "export") as staged:
            staged.mkdir()
            (staged / "graph").write_text("new graph")
        files.write_text(folder / "deeper/c.txt", "new c")
        assert files.written(folder / "a.txt").read_text() == "new a"
        assert (folder / "a.txt").read_text() == "old a"


def _fail_after_writing(path: pathlib.Path) -> None:
    with files.together():
        files.write_text(path, "a")
        raise ZeroDivisionError


def _add_while_writing(folder: pathlib.Path) -> None:
    with files.whole_folder(folder) as staged:
        staged.mkdir()
        (folder / "late.txt").write_text("late")


def test_all_or_none(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("old a")
    with files.whole_folder(tmp_path / "export") as folder:
        folder.mkdir()
        (folder / "graph").write_text("old graph")
    before = tree(tmp_path)
    replace = os.replace
    for failing in range(4):
        calls = iter(range(9))

        def broken(source: Any, target: Any, failing: int = failing, calls: Any = calls) -> None:
            if next(calls) == failing:
                raise OSError(28, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", broken)
        with pytest.raises(OSError, match="No space left"):
            _write_all(tmp_path)
        monkeypatch.undo()
        (tmp_path / "deeper").rmdir()
        assert tree(tmp_path) == before, failing


def test_a_block_that_fails_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _fail_after_writing(tmp_path / "a.txt")
    assert tree(tmp_path) == {}
    # One that is caught inside takes only its own file along.
    with files.together():
        files.write_text(tmp_path / "a.txt", "a")
        with pytest.raises(ZeroDivisionError), files.whole_file(tmp_path / "b.txt"):
            raise ZeroDivisionError
    assert list(tree(tmp_path)) == ["a.txt"]


def export(path: pathlib.Path, text: str = "graph") -> None:
    with files.whole_folder(path) as folder:
        folder.mkdir()
        (folder / "saved_model.pb").write_text(text)


def stranger(path: pathlib.Path) -> None:
    path.mkdir()
    (path / "saved_model.pb").write_text("theirs")
    (path / "thesis.tex").write_text("years of work")


def added(path: pathlib.Path) -> None:
    export(path)
    (path / "notes.txt").write_text("added")


def forged(path: pathlib.Path) -> None:
    stranger(path)
    (path / "tlt_prune_folder.json").write_text("[" * 100_000)


@pytest.mark.parametrize("make", [stranger, added, forged])
def test_a_folder_that_holds_something_else_stays(make: Any, tmp_path: pathlib.Path) -> None:
    make(tmp_path / "sm")
    before = tree(tmp_path)
    with pytest.raises(NotReplacedError, match="stays as it is"):
        export(tmp_path / "sm")
    assert tree(tmp_path) == before


def test_a_folder_of_ours_is_replaced(tmp_path: pathlib.Path) -> None:
    stranger(tmp_path / ".sm.old")
    (tmp_path / "sm").mkdir()
    for text in ("first", "second"):
        export(tmp_path / "sm", text)
        assert (tmp_path / "sm/saved_model.pb").read_text() == text
    before = tree(tmp_path)
    with pytest.raises(FileNotFoundError, match="was not written"), files.whole_folder(tmp_path / "sm"):
        pass
    assert tree(tmp_path) == before
    (tmp_path / "link").symlink_to(tmp_path / "sm")
    export(tmp_path / "link", "third")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "sm/saved_model.pb").read_text() == "third"


def test_a_file_that_is_added_while_writing_stops_it(tmp_path: pathlib.Path) -> None:
    export(tmp_path / "sm")
    with pytest.raises(NotReplacedError, match=r"holds late\.txt"):
        _add_while_writing(tmp_path / "sm")
    assert (tmp_path / "sm/late.txt").read_text() == "late"


def _count(path: pathlib.Path, times: int) -> None:
    for _ in range(times):
        while True:
            try:
                with files.claimed([path], "counting in"):
                    path.write_text(str(int(path.read_text()) + 1))
                break
            except FolderInUseError:
                continue


def test_claims_exclude_and_leave_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    with (
        files.claimed([path, tmp_path / "other"], "writing"),
        pytest.raises(FolderInUseError, match="Another process is writing"),
    ):
        files.claimed([tmp_path / "other"], "writing").__enter__()
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_count, args=(path, 40)) for _ in range(3)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(60)
        assert process.exitcode == 0
    assert path.read_text() == "120"
    assert list(tree(tmp_path)) == ["count"]


def test_what_a_killed_process_left_goes_with_the_next_output_and_what_is_being_written_stays(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".tlt_prune-dead/new").mkdir(parents=True)
    (tmp_path / ".tlt_prune-dead/new/half").write_bytes(b"half")
    (tmp_path / ".tlt_prune-dead/alive").touch()
    with files.whole_file(tmp_path / "a") as staged:
        assert not (tmp_path / ".tlt_prune-dead").exists()
        staged.write_text("a")
        # As another process does.
        files.remove_leftovers(tmp_path)
        assert staged.is_file()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a"]
