"""Spec files: typed, validated, forgiving to TAO's spellings, strict to typing mistakes."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
import yaml

from tlt_prune.errors import SpecError
from tlt_prune.specs import Spec, load_spec, spec_from_dict, to_yaml

SPECS = sorted((pathlib.Path(__file__).resolve().parent.parent / "specs").glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.name)
def test_every_spec_loads_and_says_its_command_and_result(path: pathlib.Path) -> None:
    load_spec(path)
    head = "".join(x for x in path.read_text("utf-8").splitlines(keepends=True) if x.startswith("#"))
    assert "Command:" in head
    assert "Expected:" in head


def test_a_tao_spec_needs_only_its_paths() -> None:
    text = """
    results_dir: /tmp/results
    encryption_key: nvidia_tlt
    dataset:
      train_dataset_path: train
      val_dataset_path: val
      preprocess_mode: torch
      num_classes: 20
      augmentation: {enable_color_augmentation: true, enable_center_crop: true}
    train:
      qat: false
      checkpoint: ''
      batch_size_per_gpu: 64
      num_epochs: 80
      optim_config: {optimizer: sgd}
      lr_config: {scheduler: cosine, learning_rate: 0.05, soft_start: 0.05}
      reg_config: {type: L2, scope: [conv2d, dense], weight_decay: 0.00005}
      wandb: {name: x}
    model: {backbone: resnet_18, input_width: 224, input_height: 224, input_channels: 3}
    evaluate: {dataset_path: val, checkpoint: model.keras, top_k: 3, batch_size: 256, n_workers: 8}
    prune: {checkpoint: model.keras, threshold: 0.68, granularity: 8, min_num_filters: 16, excluded_layers: []}
    """
    spec = spec_from_dict(yaml.safe_load(text))
    assert spec.prune.model_path == spec.evaluate.model_path == "model.keras"
    assert spec.train.reg_config.weight_decay == 5e-5
    assert spec.dataset.augmentation.enable_color_augmentation is True
    ignored = ("dataset.augmentation.enable_center_crop", "encryption_key", "evaluate.n_workers", "train.qat", "train.wandb")
    assert spec.ignored == ignored


def test_older_tao_names() -> None:
    spec = spec_from_dict({"data": {"train_dataset_path": "a"}, "augment": {"mixup_alpha": 0.2}, "model": {"num_classes": 4}})
    assert spec.dataset.train_dataset_path == "a"
    assert spec.dataset.augmentation.mixup_alpha == 0.2
    assert spec.dataset.num_classes == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"trian": {}}, "unknown key 'trian'. Did you mean 'train'"),
        ({"train": {"num_epoch": 3}}, "Did you mean 'train.num_epochs'"),
        ({"train": {"num_epochs": "many"}}, "'train.num_epochs' must be a whole number. Received: 'many'"),
        ({"train": {"num_epochs": True}}, "must be a whole number"),
        ({"train": {"reg_config": {"type": "L3"}}}, "one of L1, L2, none"),
        ({"train": 3}, "'train' is a section"),
        ({"prune": {"excluded_layers": "conv1"}}, "a list of text values"),
        ({"prune": {"granularity": "some"}}, "a whole number or one of auto"),
    ],
)
def test_mistakes_are_named(data: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_from_dict(data, "my.yaml")


def test_overrides_are_yaml() -> None:
    spec = load_spec(None, ["train.num_epochs=3", "train.lr_config.learning_rate=1e-3", "prune.excluded_layers=[a, b]"])
    assert (spec.train.num_epochs, spec.train.lr_config.learning_rate) == (3, 1e-3)
    assert spec.prune.excluded_layers == ("a", "b")
    with pytest.raises(SpecError, match=r"train\.num_epochs=3"):
        load_spec(None, ["train.num_epochs"])


def test_unreadable_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SpecError, match="Cannot read"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(SpecError, match="not valid YAML"):
        load_spec(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SpecError, match="expected sections"):
        load_spec(tmp_path / "list.yaml")


def test_specs_are_frozen_and_round_trip() -> None:
    spec = load_spec(SPECS[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.results_dir = "x"  # type: ignore[misc]
    assert spec_from_dict(yaml.safe_load(to_yaml(spec))) == spec
    assert spec_from_dict({}) == Spec()
