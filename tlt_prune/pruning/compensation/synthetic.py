"""Pictures that nobody took, for a least-squares fit without data.

Natural pictures are made of things that cover each other, and their spectrum falls as 1/f. So are these: "dead leaves" (Lee,
Mumford and Huang, "Occlusion Models for Natural Images", IJCV 41, 2001), discs and rectangles of random colors whose sizes
follow a power law, and noise with such a spectrum. What mean and contrast the model's inputs have, the first batch
normalization knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt_prune.errors import PlanError
from tlt_prune.graph import Graph, as_array, is_batch_norm
from tlt_prune.pruning.running.walk import Walk

_PIXELS = 1_000_000
_FEWEST, _MOST = 64, 1000
_LEAVES = 40
# Share of the contrast that all channels have in common: pictures are grayer than noise.
_GRAY = 0.7
_OPEN_SIZE = 64

SyntheticPictures = NDArray[np.float32]


def pictures_for(graph: Graph, seed: int) -> SyntheticPictures:
    """Synthetic inputs of a model, in its shape and, where its first batch normalization tells them, with its mean and contrast.

    Raises:
        PlanError: the model takes something else than one picture.
    """
    shape = graph.flat_inputs[0].shape if len(graph.flat_inputs) == 1 else ()
    if len(shape) != 4 or not graph.flat_inputs[0].dtype.startswith(("float", "bfloat")):
        raise PlanError(
            "LeastSquares without data works on synthetic pictures, and this model does not take one picture. Expected "
            "LeastSquares(data)."
        )
    first = shape[1] in (1, 3) and shape[3] not in (1, 3)
    height, width, channels = (shape[2], shape[3], shape[1]) if first else shape[1:4]
    height, width, channels = height or _OPEN_SIZE, width or _OPEN_SIZE, channels or 3
    count = int(np.clip(_PIXELS // (height * width), _FEWEST, _MOST))
    x = synthetic_pictures(count, height, width, channels, seed)
    return _adapted(graph, np.moveaxis(x, -1, 1) if first else x, 1 if first else 3)


def synthetic_pictures(count: int, height: int, width: int, channels: int, seed: int) -> SyntheticPictures:
    """`(count, height, width, channels)`, each channel of mean 0 and variance 1 over all pictures."""
    rng = np.random.default_rng(seed)
    noise = _fractal_noise(rng, count, height, width, channels)
    # Two of three show things, with some texture on them; the rest is texture.
    things = 2 * count // 3
    x = noise
    x[:things] = _dead_leaves(rng, things, height, width, channels) + 0.3 * noise[:things]
    x -= x.mean(axis=(0, 1, 2))
    return np.asarray(x / x.std(axis=(0, 1, 2)), dtype=np.float32)


def _colors(rng: np.random.Generator, count: int, channels: int) -> Any:
    return np.sqrt(_GRAY) * rng.standard_normal((count, 1)) + np.sqrt(1 - _GRAY) * rng.standard_normal((count, channels))


def _dead_leaves(rng: np.random.Generator, count: int, height: int, width: int, channels: int) -> NDArray[np.float64]:
    x = np.broadcast_to(_colors(rng, count, channels)[:, None, None, :], (count, height, width, channels)).copy()
    rows, columns = np.mgrid[:height, :width]
    size = min(height, width)
    for _ in range(_LEAVES):
        # One more leaf on every picture.
        radius = 0.05 * size * (rng.pareto(1.5, count) + 1)
        cy, cx = rng.uniform(-0.1, 1.1, (2, count))
        angle, ratio = rng.uniform(0, np.pi, count), rng.uniform(0.4, 1.0, count)
        cos, sin = np.cos(angle), np.sin(angle)
        dy, dx = rows - (cy * height)[:, None, None], columns - (cx * width)[:, None, None]
        u = dx * cos[:, None, None] + dy * sin[:, None, None]
        v = (dy * cos[:, None, None] - dx * sin[:, None, None]) / ratio[:, None, None]
        round_ = rng.random(count) < 0.5
        far = np.where(round_[:, None, None], np.hypot(u, v), np.maximum(np.abs(u), np.abs(v)))
        shade = (rng.standard_normal(count) / size)[:, None, None] * u
        color = _colors(rng, count, channels)[:, None, None, :] + shade[..., None]
        x = np.where((far < radius[:, None, None])[..., None], color, x)
    return x


def _fractal_noise(rng: np.random.Generator, count: int, height: int, width: int, channels: int) -> NDArray[np.float64]:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    frequency[0, 0] = 1 / max(height, width)
    amplitude = (frequency**-1.5)[..., None]

    def field(n: int) -> Any:
        spectrum = np.fft.fft2(rng.standard_normal((count, height, width, n)), axes=(1, 2)) * amplitude
        z = np.fft.ifft2(spectrum, axes=(1, 2)).real
        return z / z.std()

    noise: NDArray[np.float64] = np.sqrt(_GRAY) * field(1) + np.sqrt(1 - _GRAY) * field(channels)
    return noise


def _adapted(graph: Graph, x: SyntheticPictures, axis: int) -> SyntheticPictures:
    """`x` with the mean a channel and the contrast that fit the statistics of the first batch normalization.

    What is in front of it is linear in the mean m and the contrast s: its moving mean is reached by least squares over m, its
    moving variance by one s. Where something else than a convolution or scaling comes first, pictures stay as they are.
    """
    family = graph.family
    channels = x.shape[axis]
    # A constant picture for each channel, a black one, and the pictures themselves.
    unit = np.zeros((channels + 1, *x.shape[1:]), np.float32)
    for c in range(channels):
        np.moveaxis(unit, axis, 1)[c, c] = 1.0
    for step in Walk(graph, [(unit, None), (x[:_FEWEST], None)]):
        if not is_batch_norm(family, step.call.op):
            if len(step.call.inputs) > 1:
                return x
            continue
        op = step.call.op
        constant, pictured = (_columns(v, op.axis) for v in step.input())
        # Away from the border, where a convolution sees zeros.
        response = np.median(constant.reshape(channels + 1, -1, constant.shape[-1]), axis=1)
        slope, offset = response[:-1] - response[-1], response[-1]
        mean = np.linalg.lstsq(slope.T, family.numpy(op.moving_mean) - offset, rcond=1e-3)[0]
        variance = pictured.var(axis=0)
        target = family.numpy(op.moving_variance)
        contrast = np.sqrt(float(np.median(target[variance > 0] / variance[variance > 0]))) if (variance > 0).any() else 1.0
        shape = [channels if i == axis else 1 for i in range(4)]
        return np.asarray(contrast * x + mean.reshape(shape), dtype=np.float32)
    return x


def _columns(value: ArrayLike, axis: int) -> NDArray[np.float64]:
    array = np.moveaxis(as_array(value).astype(np.float64), axis, -1)
    return array.reshape(-1, array.shape[-1])
