"""Spec files: typed, validated, forgiving to TAO's spellings, strict to typing mistakes."""

from __future__ import annotations

import pathlib

import pydantic
import pytest

from tlt_prune.config.options import Options
from tlt_prune.config.specs import Spec, load_spec, spec_from_dict, to_yaml
from tlt_prune.config.yaml_texts import parse_yaml
from tlt_prune.errors import SpecError

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
    spec = spec_from_dict(parse_yaml(text))
    assert spec.prune.model_path == spec.evaluate.model_path == "model.keras"
    assert spec.train.reg_config.weight_decay == 5e-5
    assert spec.dataset.augmentation.enable_color_augmentation is True
    assert spec.ignored == ("encryption_key", "evaluate.n_workers", "train.wandb")


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
        ({"train": {"reg_config": {"scope": ["conv3d"]}}}, "'train.reg_config.scope.0' must be 'conv2d' or 'dense'"),
        (
            {"train": {"reg_config": {"type": "L3"}}},
            "'train.reg_config.type' must be 'L1', 'L2', 'group_lasso' or 'none'. Received: 'L3'",
        ),
        ({"train": 3}, "'train' must be a section with keys. Received: 3"),
        ({"prune": {"granularity": "some"}}, "a whole number or 'auto'. Received: 'some'"),
        ({"prune": {"threshold": 1.5}}, "'prune': scores divided by their layer's largest are at most 1"),
        (
            {"prune": {"threshold": 0.5, "ratio": 0.5}},
            "expected one of threshold, ratio, params.*Received: threshold=0.5, ratio=0.5",
        ),
        ({"train": {"num_epochs": -1, "lr_config": {"learning_rate": float("nan")}}}, "num_epochs.*learning_rate"),
        ({"evaluate": {"batch_size": 0}}, "'evaluate.batch_size' must be greater than or equal to 1. Received: 0"),
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


def test_a_path_of_an_override_is_taken_as_it_is() -> None:
    """There are no comments on a command line."""
    for path in ("/data/set #1", "a  b", "\u00fc #"):
        assert load_spec(None, [f"results_dir={path}"]).results_dir == path
    assert load_spec(None, ['results_dir="a #1"']).results_dir == "a #1"
    assert load_spec(None, ["train.num_epochs=3 # three"]).train.num_epochs == 3


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
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        spec.results_dir = "x"  # type: ignore[misc]
    assert spec_from_dict(parse_yaml(to_yaml(spec))) == spec
    assert spec_from_dict({}) == Spec()


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_dict({"train": {"num_epoch": 3, "random_seed": -1}, "modle": {}})
    for text in ("'train.num_epoch'", "'train.random_seed'", "'modle'"):
        assert text in str(caught.value)


def test_yaml_numbers_and_twice_given_keys(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {lr_config: {learning_rate: 1e-3}}\nprune: {excluded_layers: head}\n")
    spec = load_spec(tmp_path / "a.yaml")
    assert spec.train.lr_config.learning_rate == 1e-3
    assert spec.prune.excluded_layers == ("head",)
    (tmp_path / "b.yaml").write_text("train: {num_epochs: 3}\ntrain: {num_epochs: 4}\n")
    with pytest.raises(SpecError, match="'train' is given twice"):
        load_spec(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_bytes(b"results_dir: \xff\xfe")
    with pytest.raises(SpecError, match="UTF-8"):
        load_spec(tmp_path / "c.yaml")
    with pytest.raises(SpecError, match="not valid YAML"):
        load_spec(None, ["train.num_epochs=["])


def test_an_empty_section_is_a_section_of_defaults(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text("train:\nresults_dir:\n")
    assert load_spec(tmp_path / "a.yaml", ["train.num_epochs=3"]).train.num_epochs == 3


def test_the_prune_section_is_the_options_of_prune_model() -> None:
    spec = spec_from_dict({"prune": {"ratio": 0.25, "granularity": 4, "model_path": "m.keras"}})
    assert spec.prune.options == Options(ratio=0.25, granularity=4)


@pytest.mark.parametrize("text", ["2:4", '"2:4"', "'2:4'"])
def test_sparsity_need_not_be_quoted(text: str) -> None:
    assert load_spec(None, [f"prune.sparsity={text}"]).prune.sparsity == "2:4"
