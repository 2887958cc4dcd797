"""The pictures that a classifier takes: what its file and the spec say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlt_prune.config import Spec
from tlt_prune.io import model_info

if TYPE_CHECKING:
    from tlt_prune.data import PictureFormat, Split
    from tlt_prune.onnx import Predictor


def agreed_format(spec: Spec, predictor: Predictor) -> tuple[Spec, PictureFormat, bool]:
    """(the spec with what the model file records, the format of the pictures it takes, whether channels come first).

    Raises:
        SpecError: the spec says otherwise than the model.
    """
    spec = model_info.agreed(spec, predictor.info, str(predictor.path))
    said = spec.model.model_fields_set
    channels = spec.model.input_channels if "input_channels" in said or predictor.channels is None else predictor.channels
    open_size = (spec.model.input_height, spec.model.input_width)
    height, width, channels = predictor.picture_size(channels, open_size)
    first = predictor.channels_first(channels)
    for key, value in {
        "input_height": height,
        "input_width": width,
        "input_channels": channels,
        "data_format": "channels_first" if first else "channels_last",
    }.items():
        # An exported file may have another layout than its model.
        if key in said and getattr(spec.model, key) != value and (key != "data_format" or predictor.kind == "keras"):
            raise model_info.disagreement(f"model.{key}", getattr(spec.model, key), f"{predictor.path} has {value!r}")
    return spec, picture_format(spec, (height, width, channels)), first


def picture_format(spec: Spec, size: tuple[int, int, int] | None = None) -> PictureFormat:
    """The format that pictures are converted to, for a model of the spec's size or of `size` (height, width, channels)."""
    from tlt_prune.data import PictureFormat

    m = spec.model
    return PictureFormat(
        *(size or (m.input_height, m.input_width, m.input_channels)),
        depth=m.input_image_depth,
        resample=m.resize_interpolation_method,
        center_crop=spec.dataset.augmentation.enable_center_crop,
        oriented=not spec.dataset.ignore_exif_orientation,
    )


def as_inputs(spec: Spec, split: Split, form: PictureFormat, *, channels_first: bool, batch_size: int | None = None) -> Any:
    """Batches (pictures as the model takes them, one-hot labels) of a split, in order, not augmented."""
    from tlt_prune import data

    size = batch_size or spec.evaluate.batch_size
    return data.evaluation_pipeline(split, spec.dataset, form, batch_size=size, channels_first=channels_first).batches
