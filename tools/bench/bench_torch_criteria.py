"""The PyTorch half of bench_peer.py, which calls it in a process of its own.

    python tools/bench/bench_torch_criteria.py CASE.npz

CASE.npz holds a trained network's weights by Keras' layer names, pictures and labels to choose, retrain and score with, and what
Keras says of the first ones. The network is rebuilt in PyTorch, checked against Keras, and pruned by torch_pruning to the same
shares of the MACs with each of its criteria, in multiples of 8; retraining, where it is asked for, is one pass of SGD, cosine
from .01. Prints a JSON list, one row per criterion, ranking and share.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn

BATCH, RATE = 128, 0.01
# How many of torch_pruning's ratios are tried.
RATIOS = 64


class Same(nn.Module):
    """Pads as Keras' "same" does for a 3 x 3 convolution: with stride 2 on even sizes, below and right only."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Any) -> Any:
        sides = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // self.stride) - 1) * self.stride + 3 - size, 0)
            sides += [total // 2, total - total // 2]
        return F.pad(x, sides)


def convolution(weights: Any, name: str, norm: str, stride: int = 1) -> nn.Sequential:
    """Keras' convolution `name` and batch normalization `norm`."""
    kernel = torch.tensor(weights[f"{name}/kernel"]).permute(3, 2, 0, 1)
    layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], stride, bias=False)
    layer.weight.data = kernel.contiguous()
    gamma, beta, mean, variance = (
        torch.tensor(weights[f"{norm}/{x}"]) for x in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    # Keras' momentum .9 is PyTorch's .1.
    bn = nn.BatchNorm2d(len(gamma), eps=float(weights["epsilon"]), momentum=0.1)
    bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var = gamma, beta, mean, variance
    padding = [Same(stride)] if kernel.shape[2] == 3 else []
    return nn.Sequential(*padding, layer, bn)


class Block(nn.Module):
    def __init__(self, weights: Any, name: str, stride: int) -> None:
        super().__init__()
        self.first = convolution(weights, f"{name}conv_1", f"{name}bn_1", stride)
        self.second = convolution(weights, f"{name}conv_2", f"{name}bn_2")
        projected = f"{name}conv_shortcut/kernel" in weights
        self.shortcut = convolution(weights, f"{name}conv_shortcut", f"{name}bn_shortcut", stride) if projected else nn.Identity()

    def forward(self, x: Any) -> Any:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def dense(weights: Any) -> nn.Linear:
    kernel = torch.tensor(weights["predictions/kernel"]).T
    layer = nn.Linear(kernel.shape[1], kernel.shape[0])
    layer.weight.data, layer.bias.data = kernel.contiguous(), torch.tensor(weights["predictions/bias"])
    return layer


def resnet20(weights: Any) -> nn.Module:
    blocks = [
        Block(weights, f"block_{stage}{letter}_", 2 if stage > 1 and letter == "a" else 1)
        for stage in (1, 2, 3)
        for letter in "abc"
    ]
    stem = [convolution(weights, "conv1", "bn_conv1"), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense(weights))


def vgg16(weights: Any) -> nn.Module:
    layers: list[nn.Module] = []
    for block, repeats in enumerate((2, 2, 3, 3, 3), start=1):
        if block > 1:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        for letter in "abc"[:repeats]:
            layers += [convolution(weights, f"block_{block}{letter}_conv_1", f"block_{block}{letter}_bn_1"), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense(weights))


def accuracy(model: nn.Module, x: Any, y: Any) -> float:
    model.eval()
    with torch.no_grad():
        said = torch.cat([model(x[i : i + 500]).argmax(1) for i in range(0, len(x), 500)])
    return float((said == y).float().mean())


def retrain(model: nn.Module, x: Any, y: Any) -> None:
    torch.manual_seed(0)
    model.train()
    steps = math.ceil(len(x) / BATCH)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps)))
    order = torch.randperm(len(x))
    for i in range(0, len(x), BATCH):
        part = order[i : i + BATCH]
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        schedule.step()


def candidates(model: nn.Module, importance: Any, gradients: dict[str, Any], example: Any, ranked_globally: bool) -> list[Any]:
    """(share of the MACs, pruned model) for many of torch_pruning's ratios.

    A search by halves would miss most: where a ratio leaves a layer fewer channels than it rounds to, torch_pruning (1.6.0)
    leaves the layer whole, so that more comes of a larger ratio.
    """
    whole = tp.utils.count_ops_and_params(model, example)[0]
    found = []
    for ratio in np.linspace(0.015, 0.96, RATIOS):
        candidate = copy.deepcopy(model).eval()
        for name, parameter in candidate.named_parameters():
            parameter.grad = gradients[name].clone() if gradients else None
        pruner = tp.pruner.BasePruner(
            candidate,
            example,
            importance=importance,
            pruning_ratio=float(ratio),
            max_pruning_ratio=0.9,
            global_pruning=ranked_globally,
            round_to=8,
            ignored_layers=[m for m in candidate.modules() if isinstance(m, nn.Linear)],
        )
        pruner.step()
        candidate.zero_grad()
        found.append((tp.utils.count_ops_and_params(candidate, example)[0] / whole, candidate))
    return found


def gradients_of(model: nn.Module, x: Any, y: Any) -> dict[str, Any]:
    """Of the mean loss: what Taylor multiplies weights by."""
    model.zero_grad()
    for i in range(0, len(x), 100):
        (F.cross_entropy(model(x[i : i + 100]), y[i : i + 100], reduction="sum") / len(x)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def squares_of(model: nn.Module, x: Any, y: Any) -> dict[str, Any]:
    """Mean square of the gradients of single pictures: the Hessian's diagonal, to torch_pruning.

    Gathered here, because its own `accumulate_grad` (1.6.0) looks parameters up by name and stores them by object: it
    would keep the last picture alone.
    """
    squares = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            squares[name] += parameter.grad**2 / len(x)
    return squares


CRITERIA: dict[str, Any] = {
    "magnitude": tp.importance.MagnitudeImportance(p=2, group_reduction="first"),
    "group magnitude": tp.importance.GroupMagnitudeImportance(p=2),
    "BN scale": tp.importance.BNScaleImportance(),
    "LAMP": tp.importance.LAMPImportance(p=2),
    "FPGM": tp.importance.FPGMImportance(p=2),
    "Taylor": tp.importance.GroupTaylorImportance(),
    "Hessian": tp.importance.GroupHessianImportance(),
}


def main(path: str) -> None:
    case = dict(np.load(path))
    x_train, x_test = (torch.tensor(np.moveaxis(case[k], -1, 1)).contiguous() for k in ("x_train", "x_test"))
    y_train, y_test = (torch.tensor(case[k].argmax(1)) for k in ("y_train", "y_test"))
    model = {"resnet20": resnet20, "vgg16": vgg16}[str(case["network"])](case).eval()
    with torch.no_grad():
        said = torch.softmax(model(x_test[: len(case["expected"])]), 1).numpy()
    difference = float(np.abs(said - case["expected"]).max())
    assert difference < 1e-3, f"not the same network: probabilities differ by {difference}"
    count = int(case["calibration"])
    few = (x_train[:count], y_train[:count])
    gradients = {"Taylor": gradients_of(model, *few), "Hessian": squares_of(model, *few)}
    rows = []
    for (name, importance), ranked_globally in itertools.product(CRITERIA.items(), (False, True)):
        found = candidates(model, importance, gradients.get(name, {}), x_train[:1], ranked_globally)
        for share in map(float, case["shares"]):
            row: dict[str, Any] = {"criterion": name, "ranking": "global" if ranked_globally else "local", "macs": share}
            within = [each for each in found if each[0] <= share]
            if within:
                row["macs_left"], small = max(within, key=lambda each: each[0])
                row["accuracy"] = accuracy(small, x_test, y_test)
                if case["retrains"]:
                    small = copy.deepcopy(small)
                    retrain(small, x_train, y_train)
                    row["retrained"] = accuracy(small, x_test, y_test)
            rows.append(row)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
