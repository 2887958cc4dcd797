"""The model, pictures and preprocessing that a multitask classifier's exported files are made of and checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlt_prune import data
from tlt_prune.tasks.classification.export import ClassifierMaterial
from tlt_prune.tasks.multitask.data import load_both, tables_of, tasks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MultitaskMaterial(ClassifierMaterial):
    """See `Task.export_material`; the pictures are those of the tables."""

    def samples(self) -> NDArray[Any]:
        tables = tables_of(self._task)
        path = self.spec.evaluate.dataset_path or tables.val_csv_path
        split = data.load_table(path, tables.image_directory_path, self._form, tasks_of(self.predictor))
        return self._inputs(split.head(self.spec.export.parity_samples))

    def _training_split(self) -> data.Split:
        return load_both(self._task, self._form, tasks_of(self.predictor))[0]
