"""A spec printed with every key explained is a spec, and says what each key means."""

from __future__ import annotations

import pathlib
import re
import subprocess
from typing import Any

import pytest
from scripts import run

from tlt_prune.config import Spec, load_spec
from tlt_prune.config.explained import explained, meanings, section_of, values, written_fields
from tlt_prune.config.options import Options
from tlt_prune.config.yaml_texts import parse_yaml
from tlt_prune.detection.explained import key_meanings
from tlt_prune.detection.messages import message_fields

UNSET = re.compile(r"^(\s*)#(\w)", re.MULTILINE)


@pytest.mark.parametrize("name", ["demo_digits", "demo_boxes", "trees_prune"])
def test_what_is_printed_is_the_same_spec(name: str, root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    spec = load_spec(root / f"specs/{name}.yaml")
    again = tmp_path / "spec.yaml"
    again.write_text(explained(spec), "utf-8")
    assert load_spec(again) == spec
    assert load_spec(again).train.model_fields_set >= spec.train.model_fields_set


def test_a_detection_spec_has_the_toolkits_keys_explained(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, _ = run("train", "-e", root / "specs/trees_train.yaml", "--print_spec")
    path = tmp_path / "spec.yaml"
    path.write_text(out, "utf-8")
    assert load_spec(path) == load_spec(root / "specs/trees_train.yaml")
    assert "\n    # Width of the network's input in pixels; a multiple of 16 (whole number, 0 or more)\n" in out
    assert "backbone" not in out
    # Every key that a training reads has a meaning.
    for message, texts in key_meanings().items():
        assert list(texts) == [x["name"] for x in message_fields(message)]
        assert all(texts.values())


def test_the_default_spec_sets_nothing_and_has_every_key(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(explained(Spec()), "utf-8")
    spec = load_spec(path)
    assert spec == Spec()
    assert not spec.dataset.model_fields_set - {"augmentation"}
    # With the marks of unset keys taken away it has them all, at their defaults.
    path.write_text(UNSET.sub(r"\1\2", explained(Spec())), "utf-8")
    whole = load_spec(path)
    assert whole == Spec()
    assert whole.export.model_fields_set == set(written_fields(type(whole.export)))


def every_section(kind: Any) -> list[Any]:
    return [kind, *(x for field in written_fields(kind).values() if (inner := section_of(field)) for x in every_section(inner))]


@pytest.mark.parametrize("kind", [*every_section(Spec), Options], ids=lambda kind: kind.__name__)
def test_every_key_has_a_meaning_and_values(kind: Any) -> None:
    assert [name for name, text in meanings(kind).items() if len(text) < 5] == []
    for field in written_fields(kind).values():
        assert section_of(field) or values(field.annotation, field.metadata)


def test_values_in_words() -> None:
    fields = written_fields(Options)

    def words(name: str) -> list[str]:
        return values(fields[name].annotation, fields[name].metadata)

    assert words("granularity") == ["whole number, ≥ 1", '`"auto"`']
    assert words("ranking") == ['`"auto"`', '`"local"`', '`"global"`', '`"isomorphic"`']
    assert words("excluded_layers") == ["list of text, class"]


def test_a_script_prints_its_spec(root: pathlib.Path) -> None:
    out, _ = run("export", "-e", root / "specs/demo_digits.yaml", "--print_spec", "--set", "export.opset=15")
    assert "\n  opset: 15\n" in out
    assert "\n  #data_type: " in out
    assert "of the ONNX and LiteRT files" in out
    _, err = run("export", "--print_spec", "--set", "export.opset=99", code=1)
    assert "export.opset" in err


def test_bash_completes_the_flags() -> None:
    out, _ = run("prune", "--completion")
    words = re.fullmatch(r"complete -o default -W '([^']*)' tlt-prune", out.strip())
    assert words is not None
    script = f"{out}complete -p tlt-prune && compgen -W '{words[1]}' -- --pruning_gr"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [out.strip(), "--pruning_granularity"]


@pytest.mark.parametrize("name", ["multitask_digits", "crowns"])
def test_sections_of_a_task_are_printed(name: str, root: pathlib.Path) -> None:
    path = root / f"specs/{name}.yaml"
    out, _ = run("train", "-e", path, "--print_spec")
    given, printed = parse_yaml(path.read_text("utf-8")), parse_yaml(out)
    own = [key for key in given if key.endswith("_config")]
    assert own
    assert {key: printed[key] for key in own} == {key: given[key] for key in own}
