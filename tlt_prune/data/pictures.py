"""Picture files, found and decoded: one reader for every task."""

from __future__ import annotations

import io
import math
import os
import pathlib
import warnings
from collections.abc import Collection, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tlt_prune import extras
from tlt_prune.config import check_name, nfc, shown
from tlt_prune.errors import DataError, first_line

try:
    from PIL import Image, ImageOps
except ImportError:
    extras.require("train", "tlt_prune.data", "PIL")
    raise

SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pnm", ".tif", ".tiff"))
# The formats of these suffixes alone: Pillow would start another program for a PostScript file that is called .png.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow's own limit, above which it refuses to decode; at half of it, it warns, which nobody can act upon.
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def list_pictures(path: pathlib.Path, suffixes: Iterable[str] = SUFFIXES) -> list[pathlib.Path]:
    """Picture files below a folder, in name order; or the file itself. What is hidden, by a name with a dot, is left out, such as
    the copies of a notebook; links to folders are followed.

    Raises:
        DataError: a name is not in UTF-8, or a link leads to a folder that holds it.
    """
    if path.is_file():
        return [check_name(path)]
    wanted = frozenset(suffixes)
    return [check_name(x) for x in sorted(files_below(path)) if x.suffix.lower() in wanted and x.is_file()]


def files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """What is below a folder and not hidden, but for the folders themselves; links to folders are followed.

    Raises:
        DataError: a link leads to a folder that holds it.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [x for x in folders if not x.startswith(".")]
        for name in folders:
            inner = pathlib.Path(place, name)
            if inner.is_symlink() and _is_inside(pathlib.Path(place), folder, inner.resolve()):
                raise DataError(f"{shown(inner)} is a link to {shown(inner.resolve())}, which holds it. Remove the link.")
        yield from (pathlib.Path(place, x) for x in names if not x.startswith("."))


def _is_inside(place: pathlib.Path, top: pathlib.Path, outer: pathlib.Path) -> bool:
    """Whether `place`, or a folder that led there from `top`, is in the folder `outer`."""
    way = [place, *(x for x in place.parents if x.is_relative_to(top))]
    return any(x.resolve().is_relative_to(outer) for x in way)


def named_pictures(folder: pathlib.Path, suffixes: Collection[str] = SUFFIXES) -> dict[str, pathlib.Path]:
    """The picture files below a folder, by their names: see `by_name`.

    Raises:
        DataError: two have one name, or a name is not in UTF-8.
    """
    files = [x for x in list_pictures(folder, suffixes) if x != folder]
    return by_name(((x.relative_to(folder).as_posix(), x) for x in files), folder, suffixes)


def picture_files(source: str) -> list[pathlib.Path]:
    """Pictures below a folder, or one file.

    Raises:
        DataError: there are none.
    """
    path = pathlib.Path(source)
    pictures = list_pictures(path) if path.exists() else []
    if not pictures:
        raise DataError(f"There are no pictures at {source}. Expected a picture or a folder of pictures.")
    return pictures


def by_name(
    pairs: Iterable[tuple[str, pathlib.Path]], source: object, suffixes: Collection[str] = SUFFIXES
) -> dict[str, pathlib.Path]:
    """Files by the names of their pictures: the relative path without suffix, with "/", in NFC.

    Args:
        pairs: (relative path, file).
        source: where they are named, for errors.
        suffixes: of pictures, in lower case.

    Raises:
        DataError: two have one name.
    """
    files: dict[str, pathlib.Path] = {}
    for relative, file in pairs:
        name = picture_name(relative, suffixes)
        if name in files:
            raise DataError(
                f"{source}: expected one picture of each name. {shown(files[name])} and {shown(file)} are both "
                f"'{shown(name)}'. Rename or remove one."
            )
        files[name] = file
    return files


def picture_name(relative: str, suffixes: Collection[str] = SUFFIXES) -> str:
    """Name of a picture: see `by_name`."""
    path = pathlib.PurePath(os.path.normpath(relative))
    return nfc((path.with_suffix("") if path.suffix.lower() in suffixes else path).as_posix())


def open_picture(
    path: str | pathlib.Path, channels: int, *, depth: int = 8, oriented: bool = True, content: bytes | None = None
) -> Image.Image:
    """A decoded picture file.

    Args:
        path: the file; with `content`, its name.
        channels: 1 (gray) or 3 (RGB).
        depth: bits of a value. 16: one channel, of mode "F", 0 to 65535.
        oriented: turned as its EXIF entry says and viewers show it; TIFF files always are.
        content: of the file, where that was read already.

    Raises:
        DataError: the file cannot be decoded, is too large, or holds values that are no pixels.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS) as picture:
            if math.prod(picture.size) > MOST_PIXELS:
                raise DataError(too_large(path, picture.size))
            return converted(ImageOps.exif_transpose(picture) if oriented else picture, channels, depth)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"The picture {shown(path)} is too large to decode: {first_line(error, 120)} Make it smaller.") from error
    # Pillow's readers raise whatever a broken file leads them to.
    except Exception as error:
        reason = first_line(error, 150) or type(error).__name__
        raise DataError(f"Cannot read the picture {shown(path)}: {reason}. Remove it or replace it.") from error


def resampling(name: str) -> Image.Resampling:
    """Pillow's interpolation of a name such as "bilinear"."""
    return Image.Resampling[name.upper()]


def too_large(path: object, size: tuple[int, int]) -> str:
    """Message for a picture of more pixels than are decoded or scaled."""
    return (
        f"The picture {shown(path)} is too large: expected at most {MOST_PIXELS:,} pixels. "
        f"Received {size[0]:,} x {size[1]:,}. Make it smaller."
    )


def from_pixels(pixels: NDArray[np.unsignedinteger]) -> Image.Image:
    """An array `(height, width, 1 or more)` of 8 or, with one channel, 16 bits.

    Raises:
        ValueError: 16 bits with several channels, which no library here scales.
    """
    if pixels.shape[-1] == 1:
        return Image.fromarray(pixels[..., 0])
    if pixels.dtype == np.uint16:
        raise ValueError("pictures of 16 bits with several channels; expected one channel")
    return Image.fromarray(pixels)


def converted(picture: Image.Image, channels: int, depth: int) -> Image.Image:
    """Values scaled to the depth, channels converted: mode "L" or "RGB", or "F" for a depth of 16.

    Raises:
        ValueError: the pixels have more than 16 bits, or no known range.
    """
    if picture.mode.startswith("I"):
        # 16 bits a pixel; Pillow's own conversion would cut everything above 255.
        values = np.asarray(picture).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels have more than 16 bits; expected 8 or 16")
        picture = Image.fromarray(np.round(values / 257).astype(np.uint8)) if depth == 8 else _as_float(values)
    elif picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range nobody knows; expected 8 or 16 bits")
    elif depth == 16:
        picture = _as_float(np.asarray(picture.convert("L")).astype(np.float64) * 257)
    return picture.convert("L" if channels == 1 else "RGB") if depth == 8 else picture


def _as_float(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(values.astype(np.float32))
