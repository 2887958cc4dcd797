"""Folders of pictures into shards."""

from __future__ import annotations

import pathlib

from tlt_prune import data
from tlt_prune.config import Spec
from tlt_prune.errors import SpecError
from tlt_prune.io import files


def write_shards(spec: Spec, folder: pathlib.Path) -> list[str]:
    """See `Task.convert`."""
    dataset = spec.dataset
    for key in ("train_dataset_path", "val_dataset_path"):
        source = getattr(dataset, key)
        if source and files.place_of(folder).is_relative_to(files.place_of(source)):
            raise SpecError(
                f"convert.output (-o): {folder} lies in {source}, dataset.{key}, and would be read as a class. Expected a folder "
                "elsewhere."
            )
    found = data.convert_folders(dataset, folder, spec.convert.num_shards, spec.convert.shard_mb)
    counted = ", ".join(f"{count:,} in '{name}'" for name, count in found.pictures.items())
    kept = f" {found.kept} were there already and are whole." if found.kept else ""
    return [
        f"Wrote {found.shards} shards to {folder}: pictures of {len(found.classes)} classes, {counted}.{kept}",
        f"Train on them with dataset.train_dataset_path={folder}",
    ]
