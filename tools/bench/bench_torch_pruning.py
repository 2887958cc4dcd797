"""The PyTorch peer of bench_prune.py, which calls it in a process of its own.

    python tools/bench/bench_torch_pruning.py MODEL SIZE CLASSES REPEAT

Removes half of the channels, by L2 norm, in multiples of 8, with torch_pruning, which changes the model in place. Prints
the parameters before and after, and the median seconds, as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

# keras.applications -> torchvision.models, for the models that both have.
PEERS = {
    "ResNet50": "resnet50",
    "VGG16": "vgg16",
    "MobileNetV2": "mobilenet_v2",
    "DenseNet121": "densenet121",
    "DenseNet201": "densenet201",
    "EfficientNetB0": "efficientnet_b0",
}


def build(name: str, example: Any, classes: int) -> Any:
    """torchvision's layers before its classifier, averaged over space, and one dense layer."""
    import torch
    import torchvision

    model = getattr(torchvision.models, PEERS[name])(weights=None)
    body = list(model.children())[:-2] if name == "ResNet50" else [model.features]
    model = torch.nn.Sequential(*body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    width = model(example).shape[1]
    return torch.nn.Sequential(*model, torch.nn.Linear(width, classes)).eval()


def parameters(model: Any) -> int:
    return sum(x.numel() for x in model.parameters())


def main(name: str, size: int, classes: int, repeat: int) -> None:
    import torch
    import torch_pruning

    times = []
    # The first one warms up.
    for _ in range(repeat + 1):
        example = torch.zeros(1, 3, size, size)
        model = build(name, example, classes)
        before = parameters(model)
        start = time.perf_counter()
        torch_pruning.pruner.MagnitudePruner(
            model,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            round_to=8,
            ignored_layers=[model[-1]],
        ).step()
        times.append(time.perf_counter() - start)
    print(json.dumps({"before": before, "after": parameters(model), "seconds": statistics.median(times[1:])}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
