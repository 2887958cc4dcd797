"""The interface between tasks and export: the model, and data to compare, calibrate and train it with."""

from __future__ import annotations

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tlt_prune.config import Spec

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from tlt_prune.onnx import Predictor


@dataclasses.dataclass(frozen=True)
class PicturePreprocessing:
    """The steps from pictures of any size to a model's input.

    Attributes:
        channels: of a picture.
        dtype: "uint8" or "uint16".
        prepare: a TensorFlow tensor of pictures, `(n, height, width, channels)` -> the model's input.
    """

    channels: int
    dtype: str
    prepare: Callable[[tf.Tensor], tf.Tensor]

    @property
    def signature(self) -> keras.InputSpec:
        """Input of an endpoint that takes pictures."""
        import keras

        return keras.InputSpec(shape=(None, None, None, self.channels), dtype=self.dtype, name="pictures")


class ExportMaterial(abc.ABC):
    """The model and the data that a task provides for an export.

    Attributes:
        spec: the experiment, with its `export` section.
        predictor: the trained model; a Keras file.
        channels_first: whether the model takes pictures as (n, channels, height, width).
    """

    spec: Spec
    predictor: Predictor
    channels_first: bool

    @property
    @abc.abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) of pictures."""

    @abc.abstractmethod
    def samples(self) -> NDArray[Any]:
        """Held-out pictures as the model takes them, `export.parity_samples` of them, to compare files with Keras on."""

    @abc.abstractmethod
    def calibration(self) -> NDArray[Any]:
        """Pictures as the model takes them, to measure ranges of activations on.

        Raises:
            SpecError: the spec asks for a calibration that the task does not have.
        """

    @abc.abstractmethod
    def training(self, epochs: int) -> Mapping[str, Any]:
        """Arguments of `quantization.train_for_litert`, to continue training for that many epochs.

        Raises:
            SpecError: the task has no such training.
        """

    @abc.abstractmethod
    def write_decoded(self, onnx: pathlib.Path, path: pathlib.Path, samples: NDArray[Any]) -> str:
        """Writes the model with its outputs decoded, for `export.decoding`, as an ONNX file.

        Args:
            onnx: the ONNX file of this export, where `export.formats` has one.
            path: the file to write.
            samples: see `samples`.

        Returns:
            What is in it, after the words "Wrote PATH: ".

        Raises:
            SpecError: the task's outputs need no decoding.
        """

    @abc.abstractmethod
    def pictures(self) -> PicturePreprocessing | None:
        """The model's preprocessing, for the second signature of a SavedModel; None for no such signature."""
