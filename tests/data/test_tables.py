"""Tables of pictures with a label for each task: what is read, and what is said when something is wrong."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from tlt_prune import data
from tlt_prune.config.specs import Dataset
from tlt_prune.errors import DataError

FORM = data.PictureFormat(4, 4, 3)


def table(folder: pathlib.Path, *rows: str, name: str = "table.csv") -> pathlib.Path:
    """A CSV file, with a picture beside it for each row after the first."""
    for i in range(len(rows) - 1):
        Image.fromarray(np.full((4, 4, 3), 10 * i, np.uint8)).save(folder / f"p{i}.png")
    (folder / name).write_text("\n".join(rows) + "\n", "utf-8")
    return folder / name


def test_an_empty_cell_is_a_label_that_is_not_known(tmp_path: pathlib.Path) -> None:
    path = table(tmp_path, "file,size,color", "p0.png,10,NA", "p1.png,9,", "p2.png,,red")
    split = data.load_table(path, tmp_path, FORM)
    # Numbers stay whole though one is missing, and come in the order of their values; words such as NA are classes.
    assert split.tasks == {"color": ("NA", "red"), "size": ("9", "10")}
    assert split.labels.tolist() == [[0, 1], [-1, 0], [1, -1]]
    assert split.classes == ("color=NA", "color=red", "size=9", "size=10")
    assert data.label_counts(split) == {"color": 2, "size": 2}
    pipeline = data.evaluation_pipeline(split, Dataset(preprocess_mode="unit"), FORM, batch_size=8, channels_first=False)
    ((pictures, (color, size)),) = [(np.asarray(x), [np.asarray(t) for t in y]) for x, y in pipeline.batches]
    np.testing.assert_allclose(pictures[:, 0, 0, 0], [0, 10 / 255, 20 / 255])
    assert color.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert size.tolist() == [[0, 1], [1, 0], [0, 0]]


def test_one_task_alone_has_one_target(tmp_path: pathlib.Path) -> None:
    split = data.load_table(table(tmp_path, "file,kind", "p0.png,a", "p1.png,b"), tmp_path, FORM)
    pipeline = data.evaluation_pipeline(split, Dataset(), FORM, batch_size=8, channels_first=False)
    (targets,) = [np.asarray(y) for _, y in pipeline.batches]
    assert targets.tolist() == [[1, 0], [0, 1]]


def test_another_table_has_the_numbers_of_the_first(tmp_path: pathlib.Path) -> None:
    tasks = {"kind": ("a", "b", "c")}
    split = data.load_table(table(tmp_path, "file,kind", "p0.png,c", "p1.png,a"), tmp_path, FORM, tasks)
    assert split.labels.tolist() == [[2], [0]]
    assert split.head(1).names == ("p0.png",)
    with pytest.raises(DataError, match="No training picture has kind=b"):
        data.checked_size(split)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["file,kind", "p0.png,a", "p0.png,b"], "p0.png has several"),
        (["file,kind", "p0.png,a", "gone.png,b"], "names 1 of 2 pictures that are not there, the first: .*gone.png"),
        (["file,kind", "p0.png,a", "p1.png,a"], "the task kind has the classes a. Expected two or more"),
        (["file,kind", "p0.png,", "p1.png,"], "the task kind has the classes none"),
        (["file,kind", ",a", "p1.png,b"], "row 2 names no picture"),
        (["file"], "expected a column of file names, a column for each task"),
        (["file,kind"], "and a row for each picture"),
        (["file,kind", "p0.png,a,b", "p1.png,b"], "Cannot read .*table.csv as CSV"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: pathlib.Path, rows: list[str], message: str) -> None:
    path = table(tmp_path, *rows)
    with pytest.raises(DataError, match=message):
        data.load_table(path, tmp_path, FORM)


def test_classes_and_columns_that_a_model_does_not_know_are_refused(tmp_path: pathlib.Path) -> None:
    path = table(tmp_path, "file,kind", "p0.png,a", "p1.png,d")
    with pytest.raises(DataError, match=r"has kind=d. Expected one of a, b, the classes that the model is trained on"):
        data.load_table(path, tmp_path, FORM, {"kind": ("a", "b")})
    with pytest.raises(DataError, match=r"expected a column for each of the tasks kind, size, and no other. Received: kind"):
        data.load_table(path, tmp_path, FORM, {"kind": ("a", "d"), "size": ("1", "2")})
    with pytest.raises(DataError, match=r"Cannot read the table .*none.csv: No such file"):
        data.load_table(tmp_path / "none.csv", tmp_path, FORM)


def test_a_number_is_known_by_its_value_and_a_name_by_its_letters(tmp_path: pathlib.Path) -> None:
    train = table(tmp_path, "file,size,code", "p0.png,0.5,007", "p1.png,1,7", "p2.png,2,007")
    first = data.load_table(train, tmp_path, FORM)
    assert first.tasks == {"code": ("7", "007"), "size": ("0.5", "1", "2")}
    held_out = table(tmp_path, "file,size,code", "p0.png,1.0,7", "p1.png,2,007", name="held_out.csv")
    second = data.load_table(held_out, tmp_path, FORM, first.tasks)
    assert second.labels.tolist() == [[0, 1], [1, 2]]


def test_files_called_by_numbers_are_found(tmp_path: pathlib.Path) -> None:
    for name in ("0001", "0002"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    assert data.load_table(table(tmp_path, "file,kind", "0001,a", "0002,b"), tmp_path, FORM).names == ("0001", "0002")


def test_a_column_that_comes_twice_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"expected a column for each task. color comes twice"):
        data.load_table(table(tmp_path, "file,color,color", "p0.png,a,b", "p1.png,b,a"), tmp_path, FORM)


def test_a_long_table_is_read(tmp_path: pathlib.Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    rows = "".join(f"{'x' * 60}_{i:08d}.jpg,{'cat' if i % 2 else 'dog'}\n" for i in range(20_000))
    (tmp_path / "t.csv").write_text(f"file,kind\np.png,cat\n{rows}")
    with pytest.raises(DataError, match="names 20000 of 20001 pictures that are not there"):
        data.load_table(tmp_path / "t.csv", tmp_path, FORM)
