#!/usr/bin/env python3
"""How long pruning takes: against rebuilding the model, against its size, and, if installed, against the PyTorch peer.

    python tools/bench/bench_prune.py [--repeat 5] [--plot tracing.png] [--torch-pruning] [MODEL ...]

Prints, for each model of keras.applications (random weights, 32 x 32 pictures), the median seconds of tracing and of
`prune_model`, and their ratio to the median of `type(model).from_config(model.get_config())` plus copying the weights, measured
in turn in the same process; then the peak memory of a prune, and how tracing grows with the number of layers.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import pandas as pd
from bench_torch_pruning import PEERS

import tlt_prune
from tlt_prune.graph.tracer import trace

DEFAULT = ["ResNet50", "VGG16", "MobileNetV2", "DenseNet121", "DenseNet201", "EfficientNetB0", "NASNetMobile"]


SIZE, CLASSES = 32, 10


def build(name: str) -> keras.Model:
    body = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), pooling="avg")
    return keras.Model(body.inputs, keras.layers.Dense(CLASSES)(body.output))


def rebuild(model: keras.Model) -> keras.Model:
    """What `prune_model` is measured against."""
    new = type(model).from_config(model.get_config())
    new.set_weights(model.get_weights())
    return new


def seconds(action: Callable[[], Any]) -> float:
    gc.collect()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compare(name: str, repeat: int) -> dict[str, Any]:
    model = build(name)
    actions: dict[str, Callable[[], Any]] = {
        "trace": lambda: trace(model),
        "rebuild": lambda: rebuild(model),
        "prune": lambda: tlt_prune.prune_model(model, ratio=0.5, min_num_filters=8),
    }
    for action in actions.values():
        action()
    # In turn, so that a noisy neighbor meets all of them.
    times = {key: [] for key in actions}
    for _ in range(repeat):
        for key, action in actions.items():
            times[key].append(seconds(action))
    median = {key: statistics.median(values) for key, values in times.items()}
    layers = len(model.layers)
    keras.backend.clear_session()
    return {"model": name, "layers": layers, **median, "prune / rebuild": median["prune"] / median["rebuild"]}


def peak_memory(name: str) -> dict[str, Any]:
    """Peak of a fresh process that prunes, beside what it needs to hold a model and its copy. Linux only."""

    def peak(code: str) -> float:
        folder = os.path.dirname(os.path.abspath(__file__))
        lines = [
            "import sys",
            f"sys.path.insert(0, {folder!r})",
            "from bench_prune import build, rebuild, tlt_prune",
            code,
            # Not getrusage: a child starts with the peak of its parent there.
            "print('peak', next(x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')))",
        ]
        done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
        return float(done.stdout.split("peak")[1]) / 1024

    nothing = peak("")
    dense = peak(f"m = build({name!r})") - nothing
    both = peak(f"m = build({name!r}); p = rebuild(m)") - nothing
    pruned = peak(f"m = build({name!r}); p = tlt_prune.prune_model(m, ratio=0.5, min_num_filters=8)") - nothing
    return {"model": name, "MiB, model": dense, "MiB, model and its copy": both, "MiB, model and pruned": pruned}


def diamonds(count: int) -> keras.Model:
    """conv, conv, add, again and again: a pruner without a memo takes exponential time."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, padding="same")(inputs)
    for _ in range(count):
        x = keras.layers.Add()([x, keras.layers.Conv2D(16, 1)(x)])
    return keras.Model(inputs, x)


def dense_block(count: int) -> keras.Model:
    """Each convolution reads all before it."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same")(inputs)
    for _ in range(count):
        x = keras.layers.Concatenate()([x, keras.layers.Conv2D(4, 1)(keras.layers.BatchNormalization()(x))])
    return keras.Model(inputs, x)


def growth() -> pd.DataFrame:
    rows = []
    for kind, make in (("chain of diamonds", diamonds), ("dense block", dense_block)):
        for count in (25, 50, 100, 200, 400):
            model = make(count)
            trace(model)
            rows.append((kind, len(model.layers), min(seconds(lambda model=model: trace(model)) for _ in range(3))))
    frame = pd.DataFrame(rows, columns=["graph", "layers", "seconds"])
    frame["microseconds a layer"] = 1e6 * frame["seconds"] / frame["layers"]
    return frame


def plot(frame: pd.DataFrame, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4))
    for name, group in frame.groupby("graph"):
        axis.plot(group["layers"], 1000 * group["seconds"], "o-", label=name)
    axis.set_xlabel("layers")
    axis.set_ylabel("tracing, ms")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def torch_peer(name: str, repeat: int) -> dict[str, Any]:
    """The same job in torch_pruning, in a process of its own: TensorFlow's LLVM and PyTorch's abort each other."""
    command = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench_torch_pruning.py")]
    command += [name, str(SIZE), str(CLASSES), str(repeat)]
    peer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    model = build(name)
    plan = tlt_prune.plan_pruning(model, ratio=0.5, min_num_filters=8)
    return {
        "model": name,
        "params, torchvision": peer["before"],
        "torch_pruning keeps": peer["after"] / peer["before"],
        "params, keras": model.count_params(),
        "tlt_prune keeps": plan.params_after / model.count_params(),
        "torch_pruning, s": peer["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--plot", help="write a picture of how tracing grows")
    parser.add_argument(
        "--torch-pruning", action="store_true", help="beside torch_pruning, where it and torchvision are installed"
    )
    arguments = parser.parse_args()
    table = pd.DataFrame([compare(name, arguments.repeat) for name in arguments.models]).set_index("model")
    print(table.round(3).to_string(), "\n")
    print(pd.DataFrame([peak_memory(name) for name in ("ResNet50", "VGG16")]).set_index("model").round(0).to_string(), "\n")
    frame = growth()
    print(frame.round(4).to_string(index=False))
    if arguments.plot:
        plot(frame, arguments.plot)
    if arguments.torch_pruning:
        names = [name for name in arguments.models if name in PEERS]
        peers = pd.DataFrame([torch_peer(name, arguments.repeat) for name in names]).set_index("model")
        peers["tlt_prune, s"] = table["prune"]
        print("\n" + peers.round(3).to_string())


if __name__ == "__main__":
    main()
