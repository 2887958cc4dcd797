"""YAML 1.2 as specs need it: numbers, words, keys, merges, anchors, and large files in little time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tlt_prune.config.specs import spec_from_dict
from tlt_prune.config.texts import TextError
from tlt_prune.config.yaml_texts import dump_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-.5", -0.5), (".inf", float("inf")), ("0x1F", 31), ("0o17", 15), ("0777", 777),
        ("1_000", 1000), ("true", True), ("False", False), ("~", None), ("", None),
        # Texts, though other versions of YAML read numbers, dates or booleans.
        ("2:4", "2:4"), ("1:30", "1:30"), ("2024-01-31", "2024-01-31"), ("=", "="), ("no", "no"), ("off", "off"), ("y", "y"),
        ("%YAML 1.1\n---\n2:4", "2:4"), ("nan", "nan"), ("'1'", "1"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    assert repr(parse_yaml(text)) == repr(value)


def test_a_merge_adds_what_a_map_does_not_have() -> None:
    text = "base: &base {x: 1, y: 2}\nouter: {m: &m {<<: *base, x: 3}}\nn: {<<: *m, z: 4}\nboth: {<<: [*m, *base]}"
    data = parse_yaml(text)
    assert data["outer"]["m"] == data["both"] == {"x": 3, "y": 2}
    assert data["n"] == {"x": 3, "y": 2, "z": 4}


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "b: &b {x: 1}\nc: {<<: *b, y: 1, y: 2}",
        "{1: a, 0x1: b}",
        "b: &b {}\nc: {<<: *b, <<: *b}",
        "? a\n: 1\n? a\n: 2",
    ],
)
def test_a_key_comes_once(text: str) -> None:
    with pytest.raises(TextError, match=r"line \d: the key .* is given twice"):
        parse_yaml(text)


def test_a_second_anchor_replaces_the_first() -> None:
    assert parse_yaml("- &a 1\n- &a 2\n- *a") == [1, 2, 2]
    with pytest.raises(TextError, match="inside what it stands for"):
        parse_yaml("- &a 1\n- &a [*a]")


@pytest.mark.parametrize("tag", ["!!timestamp", "!!str", "!!value"])
def test_tags_of_texts(tag: str) -> None:
    assert parse_yaml(f"{tag} 2024-01-31") == "2024-01-31"


@pytest.mark.parametrize("tag", ["!!set", "!!omap", "!!binary", "!!pairs", "!mine", "!!python/name:os.system"])
def test_other_tags_are_rejected(tag: str) -> None:
    with pytest.raises(TextError, match="could not determine a constructor"):
        parse_yaml(f"{tag} {{}}")


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("On", True), ("no", False), ("OFF", False)])
def test_booleans_of_yaml_1_1_where_a_boolean_is_expected(word: str, value: bool) -> None:
    spec = spec_from_dict(parse_yaml(f"train: {{qat: {word}}}\ndataset: {{train_dataset_path: {word}}}"))
    assert spec.train.qat is value
    assert spec.dataset.train_dataset_path == word


def test_the_normalizer_that_is_called_off() -> None:
    assert spec_from_dict(parse_yaml("prune: {normalizer: off, ratio: 0.5}")).prune.normalizer == "off"


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "x " * 2**19, "# c\n" * 2**18, "a: |\n" + "  x\n" * 2**18, "\n" * 2**20, "[" + "1," * 49_000 + "]",
        "\n".join(f"k{i}: 1" for i in range(24_000)), "\n".join("- &a 1" for _ in range(49_000)), "a: '" + "\n" * 2**20 + "'",
        "a: &a {x: 1}\n" + "\n".join(f"k{i}: {{<<: *a}}" for i in range(8_000)),
    ],
    ids=["words", "comments", "block", "blank", "list", "keys", "anchors", "quoted", "merges"],
)  # fmt: skip
def test_large_texts_take_seconds(text: str) -> None:
    started = time.process_time()
    parse_yaml(text)
    assert time.process_time() - started < 60


def test_written_as_it_is_read() -> None:
    data = {"b": [1, 2.5, 1e-5, None, True], "a": {"2:4": "off", "empty": {}, "list": [], "text": "a: b\n# é"}, "1": "1e-4"}
    assert parse_yaml(dump_yaml(data)) == data
    assert list(parse_yaml(dump_yaml(data))) == ["b", "a", "1"]
