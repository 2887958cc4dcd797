"""The pictures, masks and settings that a spec of segmentation names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pydantic
from pydantic import Field

from tlt_prune.config import Settings, checked
from tlt_prune.data import (
    MaskAugmentation,
    MaskClasses,
    MaskFitting,
    MaskLayout,
    MaskSplit,
    PictureFormat,
    load_masks,
    mask_classes,
)
from tlt_prune.data.mask_fitting import TOOLKIT_METHODS
from tlt_prune.errors import SpecError
from tlt_prune.io import say
from tlt_prune.onnx import Predictor
from tlt_prune.tasks.segmentation import COMPATIBILITY, DATA, NETWORK
from tlt_prune.tasks.task import Task

if TYPE_CHECKING:
    import keras

Paths = str | tuple[str, ...]
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
        train_images_path, train_masks_path: two folders whose files have the same names, or two text files that list them; or
            lists of these.
        val_images_path, val_masks_path: the same for held-out pictures.
        filter_data: leave out listed pictures whose files are missing.
        target_classes: which values of a mask are which class.
        resize_padding: scale both sides of a picture alike and leave the rest black, without a class.
        tiles: cut pictures up into parts of the model's size, and do not scale them.
        augment: change training pictures at random.
        augmentation_config: how.
    """

    train_images_path: Paths
    train_masks_path: Paths
    val_images_path: Paths
    val_masks_path: Paths
    filter_data: bool = False
    target_classes: tuple[MaskValue, ...]
    resize_padding: bool = False
    tiles: bool = False
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
    if isinstance(plain, dict):
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return checked(Masks, plain, f"{task.source}: {DATA}", SpecError)


def listed(paths: Paths) -> tuple[str, ...]:
    """One path or several."""
    return (paths,) if isinstance(paths, str) else paths


def network_of(task: Task) -> NetworkSettings:
    """The section `segmentation_config`."""
    return checked(NetworkSettings, task.spec.experiment.get(NETWORK) or {}, f"{task.source}: {NETWORK}", SpecError)


def like_toolkit(task: Task) -> bool:
    """Whether the spec says `compatibility: tao`: pictures, labels and dice as the toolkit has them, defects included.

    Raises:
        SpecError: it says something else.
    """
    said = task.spec.experiment.get(COMPATIBILITY) or ""
    if said not in ("", "tao"):
        raise SpecError(f"{task.source}: {COMPATIBILITY}: expected '' or 'tao'. Received: {said!r:.60}.")
    return bool(said)


def classes_in(task: Task) -> MaskClasses:
    """The classes, and which values they are."""
    classes = mask_classes([x.model_dump() for x in masks_of(task).target_classes])
    if not like_toolkit(task):
        return classes
    if task.spec.model.input_channels == 1:
        # Its gray pictures have masks of black and white, whatever the list says.
        names = classes.names if len(classes.names) == 2 else ("background", "foreground")
        return MaskClasses(names, {value: int(value > 127) for value in range(256)}, 0, (0, 255))
    return dataclasses.replace(classes, others=0)


def augmentation_of(task: Task) -> MaskAugmentation | None:
    """The random changes; None for none."""
    masks = masks_of(task)
    if not masks.augment:
        return None
    changes = masks.augmentation_config
    if like_toolkit(task) and "crop_and_resize_ratio" not in changes.model_fields_set:
        # Its default cannot be reached: without a ratio, nothing is cut off.
        changes = changes.model_copy(update={"crop_and_resize_ratio": 0.0})
    return MaskAugmentation(**changes.model_dump())


def load_part(
    task: Task, part: Literal["train", "val"], form: PictureFormat, layout: MaskLayout, names: tuple[str, ...] | None = None
) -> MaskSplit:
    """Pictures and masks of a part; says what is not as it may be expected.

    Raises:
        SpecError: `names`, the classes of a model, are others than those of the spec.
        DataError: something is missing or broken.
    """
    masks, classes = masks_of(task), classes_in(task)
    if names is not None and names != classes.names:
        raise SpecError(
            f"{DATA}.target_classes: the classes are {', '.join(classes.names)}. Expected those of the model, in their order: "
            f"{', '.join(names)}."
        )
    pictures, files = (listed(getattr(masks, f"{part}_{kind}_path")) for kind in ("images", "masks"))
    if len(pictures) != len(files):
        raise SpecError(f"{DATA}: {part}_images_path names {len(pictures)} sources, and {part}_masks_path {len(files)}.")
    sources = list(zip(pictures, files, strict=True))
    split, notes = load_masks(sources, classes, fitting_of(task, form, layout), leave_out_missing=masks.filter_data)
    for note in notes:
        say(note)
    return split


def fitting_of(task: Task, form: PictureFormat, layout: MaskLayout) -> MaskFitting:
    """How pictures and masks get the size of a model.

    Raises:
        SpecError: two keys say how, or the toolkit has no such way.
    """
    masks = masks_of(task)
    if masks.tiles and (masks.resize_padding or like_toolkit(task)):
        other = "resize_padding: false" if masks.resize_padding else "no compatibility: tao"
        raise SpecError(f"{task.source}: {DATA}.tiles: parts of pictures are not scaled. Expected {other} beside it.")
    if like_toolkit(task) and form.resample not in TOOLKIT_METHODS:
        raise SpecError(
            f"{task.source}: model.resize_interpolation_method: the toolkit has no {form.resample!r}. Expected, with "
            f"compatibility: tao, one of {', '.join(TOOLKIT_METHODS)}."
        )
    return MaskFitting(form, layout.size, masks.resize_padding, masks.tiles, like_toolkit(task))


def layout_of(shape: tuple[int | None, ...], classes: int, form: PictureFormat, source: str, *, first: bool) -> MaskLayout:
    """How a model with an output of that shape takes and says things; `first` is whether its pictures have channels first.

    Raises:
        SpecError: it says no class for each pixel.
    """
    if len(shape) == 3:
        return MaskLayout(first, False, False, (int(shape[1] or form.height), int(shape[2] or form.width)))
    fits = [n for n in (classes, 1 if classes == 2 else classes) if len(shape) == 4 and n in (shape[1], shape[3])]
    if not fits:
        raise SpecError(f"{source} has an output of shape {shape}. Expected a map with a channel for each of {classes} classes.")
    channels = fits[0]
    outputs_first = shape[3] != channels
    size = shape[2:] if outputs_first else shape[1:3]
    return MaskLayout(first, outputs_first, channels == 1, (int(size[0] or form.height), int(size[1] or form.width)))


def layout_of_predictor(predictor: Predictor, classes: int, form: PictureFormat, *, first: bool) -> MaskLayout:
    """The same for a model file."""
    if predictor.model is not None:
        shape = tuple(predictor.model.outputs[0].shape)
    else:
        size = form.size
        black = np.zeros((1, size[2], *size[:2]) if first else (1, *size), np.float32)
        shape = predictor(black).shape
    return layout_of(shape, classes, form, str(predictor.path), first=first)


def layout_of_model(model: keras.Model, classes: int, form: PictureFormat) -> MaskLayout:
    """The same for a model."""
    first = model.inputs[0].shape[-1] != form.channels
    return layout_of(tuple(model.outputs[0].shape), classes, form, f"'{model.name}'", first=first)
