"""Specs in the toolkit's protobuf text: accepted and refused as there, and what follows from them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from golden_detection import cases, load

from tlt_prune.config.specs import read_yaml
from tlt_prune.config.yaml_texts import dump_yaml
from tlt_prune.detection import experiment, messages
from tlt_prune.errors import SpecError
from tlt_prune.tasks.detection import DetectionTask

GOLDEN = load("spec_cases.json.gz")
CASES = cases("spec_cases.json.gz")


def text_of(case: Any) -> str:
    text = str(GOLDEN[f"base_{case['kind']}"])
    for old, new in case["replace"]:
        assert old in text
        text = text.replace(old, new)
    return text


def test_all_golden_cases_are_there() -> None:
    assert len(CASES) == 44


@pytest.mark.parametrize("case", CASES, ids=[x["id"] for x in CASES])
def test_golden(case: Any) -> None:
    expected = case["expected"]
    if not expected["accepted"]:
        message = "expected protobuf text" if expected["stage"] == "parse" else "expected"
        with pytest.raises(SpecError, match=message) as error:
            messages.from_text(text_of(case), "spec.txt", case["kind"])
        assert str(error.value).startswith("spec.txt: ")
        assert ("expected protobuf text" in str(error.value)) == (expected["stage"] == "parse")
        return
    message = messages.from_text(text_of(case), "spec.txt", case["kind"])
    if "parsed" in expected:
        assert json.loads(json.dumps(messages.to_dict(message))) == expected["parsed"]


def base() -> Any:
    return messages.from_text(GOLDEN["base_train"], "spec.txt")


def test_yaml_with_the_same_keys(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(dump_yaml(messages.to_dict(base())))
    assert messages.from_file(path) == base()
    (tmp_path / "spec.txt").write_text(GOLDEN["base_train"])
    assert messages.from_file(tmp_path / "spec.txt") == base()
    path.write_text("training_config: {batch_size: 4}")
    with pytest.raises(
        SpecError, match=r"spec\.yaml: unknown key 'training_config\.batch_size'\. Did you mean .*batch_size_per_gpu"
    ):
        messages.from_file(path)
    with pytest.raises(SpecError, match="Cannot read the spec"):
        messages.from_file(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("package_training", "train"),
        ("tutorial_training", "train"),
        ("package_inference", "inference"),
        ("tutorial_inference", "inference"),
        ("tutorial_dataset_convert", "dataset_convert"),
    ],
)
def test_published_specs(name: str, kind: str) -> None:
    data = load("default_spec.json")[name]
    assert set(data) <= set(messages.to_dict(messages.from_dict(data, name, kind)))


def test_what_the_published_spec_says() -> None:
    message = messages.from_dict(load("default_spec.json")["package_training"], "default")
    assert experiment.class_names(message) == ("car", "pedestrian")
    assert experiment.mapping(message)["van"] == "car"
    found = experiment.clustering(message)["car"]
    assert (found.clustering_algorithm, found.dbscan_eps) == ("DBSCAN", pytest.approx(0.13))
    assert experiment.evaluation_boxes(message)["pedestrian"].minimum_height == 25


def test_what_follows() -> None:
    spec = base()
    grid = experiment.grid(spec, 25, 25)
    assert (grid.stride_x, grid.scale, grid.offset) == (16, 35, 0.5)
    assert experiment.rasterizer(spec, grid).classes == ("tree",)
    (tree,) = experiment.target_classes(spec)
    assert tree.initial_weights == {"cov": 1.0, "bbox": 10.0}
    assert experiment.objective_weights(spec).objective_weights.sum() == pytest.approx(1)
    assert experiment.augmentation(spec, tao=True).translate_max_x == 8
    assert experiment.canvas(spec).size == (400, 400)
    assert experiment.average_precision_mode(spec) == "SAMPLE"


@pytest.mark.parametrize(
    ("old", "new", "call", "message"),
    [
        (
            'key: "tree" value { cov',
            'key: "bush" value { cov',
            "rasterizer",
            "bbox_rasterizer_config.*entry for 'tree'. There are: bush",
        ),
        ('value: "tree"', 'value: "bush"', "mapping", "'tree' is the target of nothing in dataset_config.target_class_mapping"),
        (
            'overlap { key: "tree"',
            'overlap { key: "bush"',
            "evaluation_boxes",
            "minimum_detection_ground_truth_overlap: expected an entry",
        ),
        ('key: "tree" value { clus', 'key: "bush" value { clus', "clustering", "postprocessing_config.*entry for 'tree'"),
    ],
)
def test_classes_that_are_missing(old: str, new: str, call: str, message: str) -> None:
    assert old in GOLDEN["base_train"]
    spec = messages.from_text(GOLDEN["base_train"].replace(old, new), "spec.txt")
    arguments = (experiment.grid(spec, 25, 25),) if call == "rasterizer" else ()
    with pytest.raises(SpecError, match=message):
        getattr(experiment, call)(spec, *arguments)


def test_the_three_specs_of_the_trees_are_of_one_job() -> None:
    """Training, pruning and retraining see the same pictures, targets and losses."""
    root = pathlib.Path(__file__).resolve().parents[2]
    specs = [read_yaml(root / f"specs/trees_{name}.yaml") for name in ("train", "prune", "retrain")]
    sections = set(specs[0]) - {"results_dir", "training_config", "model_config"}
    for other in specs[1:]:
        assert {key: other[key] for key in sections} == {key: specs[0][key] for key in sections}
        assert other["model_config"] | {"pretrained_model_file": ""} == specs[0]["model_config"] | {"pretrained_model_file": ""}
    assert specs[1]["prune"]["params"] == 0.2
    for spec in specs:
        messages.from_dict({key: value for key, value in spec.items() if key in DetectionTask.sections}, "spec")
