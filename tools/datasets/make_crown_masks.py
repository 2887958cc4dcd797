#!/usr/bin/env python3
"""Masks of tree crowns from boxes of trees: a segmentation set of real pictures.

    python tools/datasets/make_crown_masks.py TREES_DIR OUT_DIR

TREES_DIR is what `tools/datasets/get_trees.py TREES_DIR` writes: tiles of scenes, called SCENE_TOP_LEFT. A crown is the ellipse
that fills its box; a mask is 1 there and 0 elsewhere. Held out is the column of tiles in the middle of each scene that has
several: ground that no training picture shows, in the same light. Writes OUT_DIR/{train,val}/{images,masks}/*.png.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil

from PIL import Image, ImageDraw


def main(trees: pathlib.Path, out: pathlib.Path) -> None:
    columns: dict[str, set[int]] = {}
    for path in sorted((trees / "images").glob("*.png")):
        scene, _, left = path.stem.rsplit("_", 2)
        columns.setdefault(scene, set()).add(int(left))
    middle = {scene: sorted(x)[len(x) // 2] for scene, x in columns.items() if len(x) > 1}
    parts: dict[str, list[str]] = {"train": [], "val": []}
    for path in sorted((trees / "images").glob("*.png")):
        scene, _, left = path.stem.rsplit("_", 2)
        parts["val" if middle.get(scene) == int(left) else "train"].append(path.stem)
    for part, names in parts.items():
        crowns = 0
        for kind in ("images", "masks"):
            (out / part / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            source = trees / f"images/{name}.png"
            with Image.open(source) as picture:
                mask = Image.new("L", picture.size, 0)
            lines = (trees / f"labels/{name}.txt").read_text("utf-8").splitlines()
            for line in lines:
                ImageDraw.Draw(mask).ellipse([float(x) for x in line.split()[4:8]], fill=1)
            crowns += len(lines)
            mask.save(out / part / f"masks/{name}.png")
            shutil.copy(source, out / part / f"images/{name}.png")
        print(f"{part}: {len(names)} pictures, {crowns} crowns")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees_dir", type=pathlib.Path)
    parser.add_argument("out_dir", type=pathlib.Path)
    arguments = parser.parse_args()
    main(arguments.trees_dir, arguments.out_dir)
