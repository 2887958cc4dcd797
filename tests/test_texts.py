"""Text that somebody else wrote: one error, one line, in bounded time."""

from __future__ import annotations

import json
import os
import pathlib
import random
import time
from typing import Any

import pytest

from tlt_prune.config import specs
from tlt_prune.config.texts import TextError, json_of, nfc, read_lines, read_text, shown
from tlt_prune.config.yaml_texts import parse_yaml
from tlt_prune.detection.kitti import parse_labels
from tlt_prune.detection.reading import load_coco
from tlt_prune.errors import DataError, PlanError, SpecError, TltPruneError
from tlt_prune.pruning.plan import PruningPlan
from tlt_prune.pruning.step_files import StepRecord


def refused(call: Any, *errors: type[TltPruneError]) -> str:
    """The message of an error that must come soon and be one line."""
    started = time.process_time()
    with pytest.raises(errors or (TltPruneError,)) as raised:  # type: ignore[arg-type]
        call()
    message = str(raised.value)
    assert time.process_time() - started < 30  # A slow machine takes 3; what grows without bound takes minutes.
    assert message.isprintable(), ascii(message)
    assert len(message) < 1100
    return message


def bomb(levels: int = 9, width: int = 9) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


YAML = {
    "bomb": bomb(),
    "bomb of maps": "\n".join(
        ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}" for i in range(1, 9))]
    ),
    "bomb of merges": "\n".join(
        ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9))]
    ),
    "deep list": "a: " + "[" * 5000,
    "deep map": "{a: " * 5000,
    "cycle": "train: &a {x: *a}",
    "digits": "train: {num_epochs: " + "9" * 5000 + "}",
    "sexagesimal": "train: {num_epochs: " + "1:" * 50_000 + "1}",
    "tag int": "a: !!int abc",
    "tag int empty": "a: !!int ''",
    "tag bool": "a: !!bool abc",
    "tag timestamp": "a: !!timestamp abc",
    "tag map": "train: !!map [1]",
    "tag python": "a: !!python/object/apply:os.system [echo]",
    "key list": "? [a, b]\n: 1",
    "key twice": "train: {num_epochs: 1, num_epochs: 2}",
    "control": "a: \x00",
    "unfinished": "train: {",
    "not a map": "- a",
    "many keys": "\n".join(f"k{i}: 1" for i in range(60_000)),
}


@pytest.mark.parametrize("name", YAML)
def test_hostile_specs(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "spec.yaml").write_text(YAML[name])
    assert "spec.yaml" in refused(lambda: specs.load_spec(tmp_path / "spec.yaml"), SpecError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n".join(f"unknown{i}: 1" for i in range(3000)), "And 2995 more"),
        ('"a\\e[31m\\nb": 1', r"a\x1b[31m\nb"),
        ("train.num_epochs: 3\ntrain: {num_epochs: 4}", "'train.num_epochs' is given twice"),
        ("train: {num_epochs: 4}\ntrain.num_epochs: 4", "'train.num_epochs' is given twice"),
        ("task: detection\nexperiment: 3", "'experiment' must be"),
        ("ignored: [a]", "unknown key 'ignored'"),
        (f"{'.' * 500}: 3", "expected a key like train.num_epochs"),
        ("train..num_epochs: 3", "expected a key like train.num_epochs"),
        ("prune: {byom_model_path: " + "x" * 400_000 + "}", "one of TAO's encrypted files"),
        ('results_dir: "a\\0b"', "'results_dir': expected text in UTF-8 without NUL"),
        ("model: {width: 1.0e+300}", "expected a number below"),
        ("task: detection\ntraining_confg: {}", "Did you mean 'training_config'?"),
        ("dataset: {test_dataset_path: x}", "Did you mean 'dataset.val_dataset_path'?"),
        ("model: {backbone: resnet_11}", "Did you mean 'resnet1"),
        ("training_config: {}", "Did you mean 'training_config, with task: detection'?"),
    ],
)
def test_mistakes_in_specs_are_told_in_a_line(text: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    assert message in refused(lambda: specs.load_spec(tmp_path / "spec.yaml"), SpecError)


@pytest.mark.parametrize("key", ["train.batch_size_per_gpu", "evaluate.batch_size", "train.num_epochs", "model.input_width"])
@pytest.mark.parametrize("value", [10**12, 2**63, 10**30])
def test_absurd_sizes_are_refused_with_the_reason(key: str, value: int) -> None:
    message = refused(lambda: specs.load_spec(None, [f"{key}={value}"]), SpecError)
    assert "expected at most" in message
    assert key.split(".")[-1] in message


def test_names_with_dots_stay_names() -> None:
    found = specs.spec_from_dict(
        {
            "task": "detection",
            "dataset_config": {"target_class_mapping": {"v1.0": "car"}},
            "prune": {"layer_options": {"a.b": {"ratio": 0.5}}},
        }
    )
    assert found.experiment["dataset_config"]["target_class_mapping"] == {"v1.0": "car"}
    assert found.prune.layer_options["a.b"].ratio == 0.5


def test_a_flag_is_no_yaml() -> None:
    assert specs.load_spec(
        None, values={"prune.model_path": "e\N{SMILING FACE WITH SUNGLASSES}: [x].keras"}
    ).prune.model_path.startswith("e\N{SMILING FACE WITH SUNGLASSES}: [")


ENCODED = {
    "plain": b"a\nb",
    "mark": b"\xef\xbb\xbfa\nb",
    "windows": b"a\r\nb",
    "old mac": b"a\rb",
}


@pytest.mark.parametrize("name", ENCODED)
def test_lines(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.txt").write_bytes(ENCODED[name])
    assert read_lines(tmp_path / "x.txt") == ["a", "b"]


@pytest.mark.parametrize("data", ["é".encode("latin-1"), "é".encode("utf-16"), "é".encode("utf-16-le"), b"\xff", b"a\0b"])
def test_other_encodings_are_named(data: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"first\n" + data if not data.startswith((b"\xff\xfe", b"\xfe\xff")) else data)
    assert "iconv" in refused(lambda: read_lines(tmp_path / "x.txt"), TextError)


def test_no_line_breaks_but_real_ones(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.txt").write_text("a\u2028b\x0cc\x85d\ne")
    assert len(read_lines(tmp_path / "x.txt")) == 2


def test_shown() -> None:
    assert shown("a\x1b[31m\nb\u202e\udcff") == r"a\x1b[31m\nb\u202e\udcff".replace("\\\\", "\\")
    assert shown("a\nb", lines=True) == "a\nb"
    assert nfc("ve\u0301lo") == "vélo"


JSON = [
    "[" * 100_000,
    '{"a": ' * 50_000,
    "[]",
    "3",
    "null",
    '{"a": NaN}',
    '{"a": 1e999}',
    '{"a": ' + "9" * 5000 + "}",
    '{"a": 1, "a": 2}',
    "{",
    "",
    '{"a": -Infinity}',
]


@pytest.mark.parametrize("number", range(len(JSON)))
def test_json(number: int) -> None:
    refused(lambda: json_of(JSON[number]), TextError)


@pytest.mark.parametrize("number", range(len(JSON)))
def test_records_of_steps(number: int, tmp_path: pathlib.Path) -> None:
    (tmp_path / "steps.json").write_text(JSON[number])
    message = refused(lambda: StepRecord(tmp_path / "steps.json", "x", RuntimeError()), PlanError)
    assert "damaged" in message
    assert f"Delete {tmp_path} to start afresh" in message


@pytest.mark.parametrize("steps", [0.5, True, "0", 2**63, None, [1], ["x"], ["0" * 63], [["0" * 64]]])
def test_records_of_steps_with_other_values(steps: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "steps.json").write_text(json.dumps({"of": "x", "steps": steps}))
    assert "damaged" in refused(lambda: StepRecord(tmp_path / "steps.json", "x", RuntimeError()), PlanError)


PLAN = {
    "format": 3, "model_name": "m", "kept": {"a": [0, 1]}, "params_before": 4, "params_after": 2, "macs_before": None,
    "macs_after": None, "size_mb_before": 1.0, "size_mb_after": 0.5, "latency_ms_before": None, "latency_ms_after": None,
    "scores": [0.0, 1.0], "first_threshold": None, "settings": {"ratio": 0.5}, "unknown": {},
    "layers": [{"layer": "a", "kind": "Dense", "filters_before": 4, "filters_after": 2, "params_before": 4, "params_after": 2,
                "macs_before": None, "macs_after": None, "groups": [0], "note": ""}],
}  # fmt: skip


def test_the_plan_itself_is_read() -> None:
    plan = PruningPlan.from_json(json.dumps(PLAN))
    assert plan.kept["a"].tolist() == [0, 1]
    assert PruningPlan.from_json(plan.to_json()).to_json() == plan.to_json()


@pytest.mark.parametrize("index", [0.5, 1.0, True, "0", 2**63, -(2**40), None, [0]])
def test_indices_that_are_none(index: Any) -> None:
    refused(lambda: PruningPlan.from_json(json.dumps({**PLAN, "kept": {"a": [index]}})), PlanError)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"format": "3"}, {"settings": {"channelwise_layers": 3}}, {"settings": {"channelwise_layers": [{}]}},
        {"settings": []},
        {"layers": [{**PLAN["layers"][0], "layer": ["a"]}]}, {"layers": [{**PLAN["layers"][0], "filters_before": "8"}]},  # type: ignore[index]
        {"params_before": "x"}, {"macs_before": "many"}, {"scores": "x"}, {"unknown": 3}, {"more": 1}, {"kept": []},
    ],
)  # fmt: skip
def test_plans_of_other_types(change: dict[str, Any]) -> None:
    refused(lambda: PruningPlan.from_json(json.dumps({**PLAN, **change})), PlanError)


def test_names_that_are_no_files(tmp_path: pathlib.Path) -> None:
    for name in (tmp_path, tmp_path / "nowhere", tmp_path / ("n" * 300), pathlib.Path("a\0b")):
        refused(lambda name=name: PruningPlan.from_json(name), PlanError)
    (tmp_path / "large").write_bytes(b" " * 2000)
    refused(lambda: read_text(tmp_path / "large", most=1000), TextError)


# --- anything at all ---

INPUTS = int(os.environ.get("TLT_PRUNE_FUZZ_TEXTS", "250"))
_SEEDS = [
    *YAML.values(), *JSON, json.dumps(PLAN), "car 0 0 0 1 2 30 40 0 0 0 0 0 0 0",
    "train: {num_epochs: 3}\nmodel: {backbone: resnet_10}",
    json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "car"}], "annotations": [
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}),
]  # fmt: skip
_PIECES = [
    "[",
    "]",
    "{",
    "}",
    ": ",
    ", ",
    "\n",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "'",
    '"',
    "\x1b[31m",
    "\u2028",
    "1e999",
    "nan",
    "-0",
    "é",
    "\0",
    "\\",
    "#",
    "|",
    "%",
    "- ",
    "1" * 30,
]


def mutated(rng: random.Random) -> str:
    text = rng.choice(_SEEDS)[:2000]
    for _ in range(rng.randint(1, 8)):
        at = rng.randint(0, len(text))
        kind = rng.random()
        if kind < 0.4:
            text = text[:at] + rng.choice(_PIECES) + text[at:]
        elif kind < 0.7:
            text = text[:at] + text[at + rng.randint(1, 20) :]
        else:
            text = text[:at] + text[rng.randint(0, len(text)) :][: rng.randint(1, 50)] + text[at:]
    return text


def test_any_text_is_read_or_refused_in_a_line(tmp_path: pathlib.Path) -> None:
    """TLT_PRUNE_FUZZ_TEXTS=10000 tries more of them."""
    rng = random.Random(int(os.environ.get("TLT_PRUNE_FUZZ_SEED", "1")))
    coco, names, spec = tmp_path / "coco.json", tmp_path / "names.txt", tmp_path / "spec.yaml"
    readers: list[Any] = [
        lambda text: specs.load_spec(spec),
        lambda text: parse_yaml(text),
        lambda text: json_of(text),
        lambda text: PruningPlan.from_json("{" + text),
        lambda text: parse_labels(text, "a.txt"),
        lambda text: load_coco(coco, tmp_path, {"car": "car"}, (32, 32)),
        lambda text: read_lines(names),
        lambda text: specs.parse_overrides([text]),
    ]
    fine = 0
    for _ in range(INPUTS):
        text = mutated(rng)
        for path in (coco, names, spec):
            path.write_text(text, "utf-8")
        for number, read in enumerate(readers):
            started = time.process_time()
            try:
                read(text)
            except (DataError, SpecError, PlanError) as error:
                fine += str(error).isprintable() and len(str(error)) < 1100
            else:
                fine += 1
            assert time.process_time() - started < 30, (number, text)
    assert fine == INPUTS * len(readers)
