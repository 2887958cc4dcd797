"""Size, channels and depth that every picture is brought to."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlt_prune.data.pictures import MOST_PIXELS, converted, from_pixels, open_picture, resampling, too_large
from tlt_prune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# What a center crop leaves out at every side, in pixels of the scaled picture, as in the toolkit.
_CROP_MARGIN = 16


@dataclasses.dataclass(frozen=True)
class PictureFormat:
    """Format that every picture is brought to.

    Attributes:
        height, width, channels: in pixels; one channel is gray, three are RGB.
        depth: bits of a value, 8 or 16.
        resample: name of the interpolation.
        oriented: turned as their EXIF entry says and viewers show them.
        center_crop: scaled to cover the size with 16 pixels more on every side, then cropped in the middle, as in the
            toolkit; otherwise stretched. A picture that has the size already stays as it is.
    """

    height: int
    width: int
    channels: int
    depth: int = 8
    resample: str = "bilinear"
    center_crop: bool = False
    oriented: bool = True

    @property
    def size(self) -> tuple[int, int, int]:
        """Size: (height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return np.uint16 if self.depth == 16 else np.uint8


def load_picture(path: str | pathlib.Path, form: PictureFormat, content: bytes | None = None) -> NDArray[Any]:
    """Reads one picture, in `form`; with `content`, what was read already of the file called `path`.

    Raises:
        DataError: the file cannot be decoded, is too large, or holds values that are no pixels.
    """
    return _formed(open_picture(path, form.channels, depth=form.depth, oriented=form.oriented, content=content), form, path)


def fit_pictures(images: NDArray[Any], form: PictureFormat, source: str) -> NDArray[Any]:
    """Brings pictures in memory to a format.

    Args:
        images: uint8 or uint16 `(n, height, width, channels)`.
        form: the format.
        source: where they are from, for errors.

    Returns:
        `(n, *form.size)` of `form.dtype`.

    Raises:
        DataError: they have 16 bits and several channels.
    """
    if images.shape[1:] == form.size and images.dtype == form.dtype:
        return images
    try:
        return np.stack([_formed(converted(from_pixels(x), form.channels, form.depth), form, source) for x in images])
    except ValueError as error:
        raise DataError(f"{source}: {error}.") from error


def _formed(picture: Image.Image, form: PictureFormat, source: object) -> NDArray[Any]:
    """A decoded picture in `form`."""
    array = np.asarray(_fitted(picture, form, source))
    if form.depth == 16:
        array = np.clip(np.round(array), 0, 65535).astype(np.uint16)
    return array[..., None] if form.channels == 1 else array


def _fitted(picture: Image.Image, form: PictureFormat, source: object) -> Image.Image:
    wanted = (form.width, form.height)
    if picture.size == wanted:
        return picture
    resample = resampling(form.resample)
    if not form.center_crop:
        return picture.resize(wanted, resample)
    width, height = picture.size
    ratio = max((form.width + 2 * _CROP_MARGIN) / width, (form.height + 2 * _CROP_MARGIN) / height)
    covering = int(width * ratio), int(height * ratio)
    if math.prod(covering) > MOST_PIXELS:
        raise DataError(
            f"{too_large(source, picture.size)} It is too long and thin to be cropped: as it covers the model's size."
        )
    scaled = picture.resize(covering, resample)
    left, top = (round(n / 2) - round(m / 2) for n, m in zip(scaled.size, wanted, strict=True))
    return scaled.crop((left, top, left + form.width, top + form.height))
