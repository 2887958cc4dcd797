"""The pictures, masks and settings that a spec of segmentation names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Field

from tlt_prune.config import Settings, checked
from tlt_prune.data import MaskAugmentation, MaskClasses, MaskLayout, MaskSplit, PictureFormat, load_masks, mask_classes
from tlt_prune.errors import SpecError
from tlt_prune.io import say
from tlt_prune.onnx import Predictor
from tlt_prune.tasks.segmentation import DATA, NETWORK
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    import keras

Share = Annotated[float, Field(ge=0, le=1)]


class MaskValue(Settings):
    """A value of the masks.

    Attributes:
        name: its name.
        label_id: the value; no pixel has -1.
        mapping_class: name of the class that it belongs to; empty for its own.
    """

    name: str
    label_id: Annotated[int, Field(ge=-1, le=65_535)]
    mapping_class: str = ""


class MaskChanges(Settings):
    """Random changes of training pictures and masks: see `tlt_prune.data.MaskAugmentation`."""

    hflip_probability: Share = 0.5
    vflip_probability: Share = 0.5
    crop_and_resize_prob: Share = 0.5
    crop_and_resize_ratio: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    delta: Share = 0.2


class Masks(Settings):
    """The section `dataset_config`.

    Attributes:
        train_images_path, train_masks_path: two folders whose files have the same names, or two text files that list them.
        val_images_path, val_masks_path: the same for held-out pictures.
        target_classes: which values of a mask are which class.
        augment: change training pictures at random.
        augmentation_config: how.
    """

    train_images_path: str
    train_masks_path: str
    val_images_path: str
    val_masks_path: str
    target_classes: tuple[MaskValue, ...]
    augment: bool = True
    augmentation_config: MaskChanges = MaskChanges()


class NetworkSettings(Settings):
    """The section `segmentation_config`.

    Attributes:
        loss: "cross_entropy", "dice" or "cross_dice_sum", their sum.
        activation: "softmax" has an output channel for each class; "sigmoid" has one, for two classes.
        class_weights: class -> weight of its pixels in the loss; 1 for others.
        initializer: of the decoder's convolutions.
    """

    loss: Literal["cross_entropy", "dice", "cross_dice_sum"] = "cross_entropy"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    class_weights: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(default_factory=dict)
    initializer: Literal["glorot_uniform", "he_normal", "he_uniform"] = "glorot_uniform"

    @pydantic.field_validator("class_weights", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        return {key: float(x) if isinstance(x, int) else x for key, x in value.items()} if isinstance(value, Mapping) else value


def masks_of(task: Task) -> Masks:
    """The section `dataset_config`.

    Raises:
        SpecError: it is missing, or a key is.
    """
    keys = "train_images_path, train_masks_path, val_images_path, val_masks_path and target_classes"
    section = task.required_section(DATA, keys)
    plain = dict(section) if isinstance(section, Mapping) else section
    if isinstance(plain, dict) and isinstance(plain.get("target_classes"), list):
        plain["target_classes"] = tuple(plain["target_classes"])
    return checked(Masks, plain, f"{task.source}: {DATA}", SpecError)


def network_of(task: Task) -> NetworkSettings:
    """The section `segmentation_config`."""
    return checked(NetworkSettings, task.spec.experiment.get(NETWORK) or {}, f"{task.source}: {NETWORK}", SpecError)


def classes_in(masks: Masks) -> MaskClasses:
    """The classes, and which values they are."""
    return mask_classes([x.model_dump() for x in masks.target_classes])


def augmentation_of(masks: Masks) -> MaskAugmentation | None:
    """The random changes; None for none."""
    return MaskAugmentation(**masks.augmentation_config.model_dump()) if masks.augment else None


def load_part(task: Task, part: Literal["train", "val"], form: PictureFormat, names: tuple[str, ...] | None = None) -> MaskSplit:
    """Pictures and masks of a part; says what is not as it may be expected.

    Raises:
        SpecError: `names`, the classes of a model, are others than those of the spec.
        DataError: something is missing or broken.
    """
    masks = masks_of(task)
    classes = classes_in(masks)
    if names is not None and names != classes.names:
        raise SpecError(
            f"{DATA}.target_classes: the classes are {', '.join(classes.names)}. Expected those of the model, in their order: "
            f"{', '.join(names)}."
        )
    pictures, files = getattr(masks, f"{part}_images_path"), getattr(masks, f"{part}_masks_path")
    split, notes = load_masks(pictures, files, classes, form)
    for note in notes:
        say(note)
    return split


def layout_of(shape: tuple[int | None, ...], classes: int, form: PictureFormat, source: str) -> MaskLayout:
    """How a model with an output of that shape takes and says things.

    Raises:
        SpecError: it says no class for each pixel.
    """
    fits = [n for n in (classes, 1 if classes == 2 else classes) if len(shape) == 4 and n in (shape[1], shape[3])]
    if not fits:
        raise SpecError(f"{source} has an output of shape {shape}. Expected a map with a channel for each of {classes} classes.")
    channels = fits[0]
    first = shape[3] != channels
    size = shape[2:] if first else shape[1:3]
    return MaskLayout(first, channels == 1, (int(size[0] or form.height), int(size[1] or form.width)))


def layout_of_predictor(predictor: Predictor, classes: int, form: PictureFormat, one: Any) -> MaskLayout:
    """The same for a model file; `one` is a picture as it takes it."""
    if predictor.model is not None:
        return layout_of(tuple(predictor.model.outputs[0].shape), classes, form, str(predictor.path))
    return layout_of(predictor(one).shape, classes, form, str(predictor.path))


def layout_of_model(model: keras.Model, classes: int, form: PictureFormat) -> MaskLayout:
    """The same for a model."""
    return layout_of(tuple(model.outputs[0].shape), classes, form, f"'{model.name}'")
