"""The protocol of a task: all that the scripts ask of one."""

from __future__ import annotations

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt_prune.config import Spec, explained
from tlt_prune.config.yaml_texts import dump_yaml
from tlt_prune.errors import SpecError

if TYPE_CHECKING:
    from tlt_prune.export import ExportMaterial
    from tlt_prune.onnx import Predictor
    from tlt_prune.training import TrainingJob, TrainResult

Inputs = Mapping[str, str | pathlib.Path | None]
"""Source of a name ("-e", "dataset.train_dataset_path") -> the file or folder that is read: see `io.places`."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """The score that says which epoch of a training was best.

    Attributes:
        column: its name in history.csv; the higher, the better.
        title: its name in sentences.
        label: its name in the line of an epoch.
    """

    column: str
    title: str
    label: str


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Part of the training data, as criteria and compensations take it.

    Attributes:
        x: the model's inputs, `(n, ...)`.
        y: what its outputs are compared with.
        loss: for gradients: a name of Keras' losses, or a function (targets, outputs) -> scalar.
        metric: for ablation: the same, or (targets, outputs) of all examples -> number, the higher the better.
    """

    x: Any
    y: Any
    loss: Any
    metric: Any


@dataclasses.dataclass(frozen=True, eq=False)
class TwinTraining:
    """Training of the tf_keras twin of a model, for 2:4 sparsity, clustering and LiteRT.

    Attributes:
        arguments: of `quantization.sparsify` and its like: data, epochs, steps_per_epoch, learning_rate.
        pictures: how many there are in an epoch.
        accuracy: a function from inputs to probabilities -> its accuracy on the held-out pictures, 0 to 1.
    """

    arguments: Mapping[str, Any]
    pictures: int
    accuracy: Callable[[Callable[[Any], NDArray[Any]]], float]


class Task(abc.ABC):
    """One kind of model, as one spec describes it.

    Its module imports no framework at the top: scripts ask it for names of files before they load one.

    Attributes:
        name: the value of the key `task` in a spec.
        sections: top-level sections of a spec that only this task reads; they are in `spec.experiment`.
        takes_any_file: whether it reads a spec file that is not YAML unless another task knows it for its own.
        pretrained_key: spec key of the model that a training starts from.
        measure: which epoch is best.
        score_files: names of the files that `evaluate` writes.
        spec: the experiment.
        source: the file that it was read from, for messages.
    """

    name: ClassVar[str]
    sections: ClassVar[tuple[str, ...]] = ()
    takes_any_file: ClassVar[bool] = False
    pretrained_key: ClassVar[str] = "train.pretrained_model_path"
    measure: ClassVar[Measure] = Measure("val_accuracy", "Accuracy", "accuracy")
    score_files: ClassVar[tuple[str, ...]] = ("evaluation.json",)

    def __init__(self, spec: Spec, source: str = "the spec") -> None:
        self.spec = spec
        self.source = source

    def required_section(self, name: str, keys: str) -> Any:
        """A section of the spec's `experiment` as it is written.

        Raises:
            SpecError: it is missing; the message names `keys`, what the section holds.
        """
        section = self.spec.experiment.get(name)
        if section is None:
            raise SpecError(f"{self.source}: task '{self.name}' expects the section {name} with {keys}.")
        return section

    def optional_section(self, name: str) -> dict[str, Any]:
        """A section as it is written; empty where there is none, or something else in its place."""
        section = self.spec.experiment.get(name)
        return section if isinstance(section, dict) else {}

    @classmethod
    def sections_of_file(cls, path: pathlib.Path) -> Mapping[str, Any] | None:
        """The sections of a spec file that is not YAML; None where this task has no such format."""
        return None

    def explained(self) -> str:
        """The spec as YAML, with every key of this task and what it means."""
        own = f"\n# What only this task reads.\n{dump_yaml(self.spec.experiment)}" if self.spec.experiment else ""
        return explained(self.spec, without=("experiment",)) + own

    @property
    @abc.abstractmethod
    def has_data(self) -> bool:
        """Whether the spec names training data."""

    @abc.abstractmethod
    def data_inputs(self) -> dict[str, str]:
        """The files and folders with data that the spec names, by their keys."""

    def start_inputs(self) -> dict[str, str]:
        """The model files that a training reads, by their keys."""
        train = self.spec.train
        return {self.pretrained_key: train.pretrained_model_path, "train.distill.teacher": train.distill.teacher}

    def starting_from(self, path: str, epochs: int) -> Self:
        """The same task with a training that starts from the model file `path` and takes `epochs` epochs."""
        train = self.spec.train.model_copy(update={"pretrained_model_path": path, "num_epochs": epochs})
        return type(self)(self.spec.model_copy(update={"train": train}), self.source)

    @abc.abstractmethod
    def training(self, folder: pathlib.Path) -> TrainingJob:
        """The training of `tlt-train`: reads the model and the data that the spec names.

        Raises:
            TltPruneError: something in the spec, the model or the data does not fit.
        """

    def finish_training(self, result: TrainResult, folder: pathlib.Path) -> None:  # noqa: B027
        """Writes what else belongs beside the trained model."""

    @abc.abstractmethod
    def evaluate(self, path: str, folder: pathlib.Path) -> None:
        """Scores a model file on the held-out data and writes `score_files` to `folder`."""

    @abc.abstractmethod
    def infer(self, path: str, folder: pathlib.Path, inputs: Inputs, *, draw: bool) -> None:
        """Runs a model file on `inference.image_dir`, or on held-out data, and writes the results to `folder`.

        Args:
            path: the model.
            folder: for the results.
            inputs: what the script reads, none of which a result may replace: see `io.places.writing`.
            draw: whether pictures of the results are asked for.
        """

    @abc.abstractmethod
    def examples(self, predictor: Predictor, *, required: bool) -> Examples | None:
        """`prune.samples` of the training data; None, with a message, where there is none and it is not `required`.

        Raises:
            SpecError: it is `required`, and the spec names none; or the data is not the model's.
        """

    def convert(self, output: pathlib.Path) -> list[str]:
        """Writes the training data as TFRecord files, see `Convert`; returns what is to be said of them.

        Raises:
            SpecError: data of this task is not converted.
        """
        raise SpecError(f"The data of the task '{self.name}' is read as it is. Expected a task of classification or detection.")

    def twin_training(self, predictor: Predictor, epochs: int, key: str) -> TwinTraining:
        """The training of the model's tf_keras twin; `key` is the spec key that asks for it.

        Raises:
            SpecError: models of this task are not trained so.
        """
        raise SpecError(f"{key}: the task '{self.name}' trains no tf_keras twin. Expected a classifier, or the key left out.")

    @abc.abstractmethod
    def export_material(self, predictor: Predictor) -> ExportMaterial:
        """The model, pictures and preprocessing that exported files are made of and checked with."""


def stacked(batches: Iterable[tuple[ArrayLike, Any]]) -> tuple[NDArray[Any], Any]:
    """(inputs, targets) of all batches, each as one array; targets of several outputs as a tuple of arrays."""
    inputs, targets = zip(*batches, strict=True)
    several = isinstance(targets[0], tuple)
    joined = [np.concatenate([np.asarray(y) for y in ys]) for ys in zip(*(y if several else (y,) for y in targets), strict=True)]
    return np.concatenate([np.asarray(x) for x in inputs]), tuple(joined) if several else joined[0]
