#!/usr/bin/env python3
"""A contact sheet of what a detector is trained on: augmented pictures with their boxes, and the coverage that it is to say.

    python tools/datasets/draw_targets.py SPEC OUT.png [--pictures 8] [--epoch 0] [KEY=VALUE ...]

SPEC is a spec with task: detection; KEY=VALUE overrides what it says. Look at it before you train: boxes that are shifted,
missing or of another class, and pictures that nobody could recognize, are seen here first.
"""

from __future__ import annotations

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from tlt_prune.config.specs import load_spec
from tlt_prune.data import picture_key
from tlt_prune.detection import dataset, experiment
from tlt_prune.detection.drawing import COLORS
from tlt_prune.tasks.detection.job import read_job


def main(spec: str, target: pathlib.Path, pictures: int, epoch: int, overrides: list[str]) -> None:
    job = read_job(load_spec(spec, overrides))
    split, _ = job.splits()
    width, height = job.size
    grid = experiment.grid(job.message, width // 16, height // 16)
    raster = experiment.rasterizer(job.message, grid)
    few = split.part(split.names[:pictures])
    shown = tf.constant(few.pictures, tf.float32) / 255
    seed = picture_key(int(job.message.random_seed), epoch, 0)
    augmentation = experiment.augmentation(job.message, tao=job.tao)
    shown, boxes, numbers = dataset.augmented(shown, tf.constant(few.boxes), tf.constant(few.numbers), augmentation, seed)
    coverage = raster(boxes, numbers)["cov"].numpy()
    columns = min(4, len(few))
    rows = -(-len(few) // columns)
    figure, axes = plt.subplots(2 * rows, columns, figsize=(2.6 * columns, 5.2 * rows * height / width), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i in range(len(few)):
        upper, lower = axes[2 * (i // columns), i % columns], axes[2 * (i // columns) + 1, i % columns]
        upper.imshow(shown[i].numpy().squeeze(), cmap="gray", vmin=0, vmax=1)
        upper.set_title(few.names[i], fontsize=7)
        for box, number in zip(boxes[i].numpy(), numbers[i].numpy(), strict=True):
            if number >= 0:
                x1, y1, x2, y2 = box
                masks = number >= len(few.classes)
                color, name = ("gray", "masks") if masks else (COLORS[number % len(COLORS)], few.classes[number])
                upper.add_patch(
                    plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=color, lw=1, ls=":" if masks else "-")
                )
                upper.text(x1, y1 - 2, name, color=color, fontsize=6)
        painted = np.ones((*coverage.shape[2:], 3))
        for number in range(len(few.classes)):
            color = np.array(matplotlib.colors.to_rgb(COLORS[number % len(COLORS)]))
            painted -= coverage[i, number][..., None] * (1 - color)
        lower.imshow(painted.clip(0, 1), interpolation="nearest")
        lower.set_title("coverage", fontsize=7)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    print(f"Wrote {target}: {len(few)} pictures, {int(few.is_object.sum())} objects.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--epoch", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    main(**vars(parser.parse_args()))
