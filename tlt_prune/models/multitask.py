"""Multitask classification: one backbone, a branch and a softmax for each task, as the toolkit builds it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import keras

from tlt_prune.models.blocks import ArchitectureOptions, Net
from tlt_prune.models.registry import register_network

# Filters of a branch's two convolutions.
_BRANCH = (128, 64)


@register_network(
    "multitask",
    {
        **{f"resnet{n}": {"use_pooling": False, "all_projections": True} for n in (10, 18, 34, 50, 101)},
        **{f"vgg{n}": {"use_pooling": False} for n in (16, 19)},
        **{f"{stem}{n}": {} for stem in ("darknet", "cspdarknet") for n in (19, 53)},
        **{f"efficientnet_b{n}": {} for n in range(6)},
        **{f"mobilenet_v{n}": {"stride": 16} for n in (1, 2)},
        **{name: {} for name in ("cspdarknet_tiny", "squeezenet", "googlenet")},
    },
    {"use_bias": False},
)
def multitask(
    base: keras.Model,
    backbone: str,
    classes: Mapping[str, int] | None,
    *,
    dropout: float = 0.0,
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Puts a branch for each task on a backbone: two convolutions, pooling over the whole map, and a dense layer.

    Args:
        base: the backbone, without a head; its input has a fixed size.
        backbone: its name.
        classes: task -> number of its classes, at least 2. The task's name is that of its dense layer; what is no letter, digit,
            dot or hyphen becomes "_".
        dropout: share of the pooled features dropped while training.
        options: what all architectures share.

    Returns:
        A model with a softmax for each task, (batch, classes), in the order of the tasks' names.

    Raises:
        ValueError: there is no task, or one has fewer than 2 classes.
    """
    if not isinstance(classes, Mapping) or not classes or any(n < 2 for n in classes.values()):
        raise ValueError(
            f"Expected classes to be a mapping of tasks to their numbers of classes, 2 or more. Received: {classes!r}."
        )
    net = Net(options or ArchitectureOptions(use_bias=False), after=base)
    tasks = sorted(classes)
    names = [re.sub(r"[^A-Za-z0-9._-]", "_", task) for task in tasks]
    # A layer's name takes these only, and is its own.
    names = [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]
    heads = [_branch(net, base.outputs[0], name, classes[task], dropout) for name, task in zip(names, tasks, strict=True)]
    return keras.Model(base.inputs[0], heads, name=f"multitask_{base.name}")


def _branch(net: Net, x: keras.KerasTensor, task: str, classes: int, dropout: float) -> keras.KerasTensor:
    name = f"multitask_{task}_"
    for number, filters in enumerate(_BRANCH, start=1):
        x = net.conv(x, filters, 3, name=f"{name}conv{number}", use_bias=False)
        x = keras.layers.ReLU(name=f"{name}conv{number}_lrelu")(net.norm(x, f"{name}conv{number}_bn"))
    pooling = keras.layers.AveragePooling2D(net.spatial(x), data_format=net.options.data_format, name=f"{name}pool")
    x = net.flatten(pooling(x), f"{name}flatten")
    if dropout:
        x = keras.layers.Dropout(dropout, name=f"{name}dropout")(x)
    return net.dense(x, classes, task)
