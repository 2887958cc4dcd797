"""Who the workers of a job are, as TF_CONFIG, SLURM and the jobs of the manual say."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from tlt_prune.config.yaml_texts import parse_yaml
from tlt_prune.errors import WorkersError
from tlt_prune.io import workers


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("[" * 10_000, "cannot be read"),
        ('{"cluster": {"worker": 3}}', "cannot be read"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"index": "x"}}', "cannot be read"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}', "this process is worker 2"),
        ('{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}', "received 'b'"),
        ('{"cluster": {"worker": ["a:1", "b:99999"]}, "task": {"type": "worker", "index": 0}}', "received 'b:99999'"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "the same address"),
        ('{"cluster": {"ps": ["a:1"], "worker": ["b:2"]}, "task": {"type": "ps", "index": 0}}', "the job 'ps'"),
    ],
)
def test_a_wrong_tf_config_is_one_line(text: str, part: str) -> None:
    with pytest.raises(WorkersError, match="TF_CONFIG") as raised:
        workers.of_tf_config({"TF_CONFIG": text})
    assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tf_config_counts_the_chief_first() -> None:
    cluster = {"chief": ["a:1"], "worker": ["b:2", "c:3"]}
    found = workers.of_tf_config({"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})})
    assert found is not None
    assert (found.count, found.index, list(found.addresses())) == (3, 2, ["a:1", "b:2", "c:3"])
    # One process is no job of several.
    assert workers.of_tf_config({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}) is None
    assert workers.of_tf_config({"TF_CONFIG": "{}"}) is None


SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_NTASKS": "3",
    "CUDA_VISIBLE_DEVICES": "",
}


def test_slurm_says_who_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    found = workers.of_slurm(os.environ)
    assert found is not None
    assert (found.count, found.index) == (3, 2)
    assert list(found.addresses()) == ["node1:8888", "node1:8889", "node2:8888"]
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    with pytest.raises(WorkersError, match="SLURM: its variables do not describe the tasks"):
        found.addresses()


def test_the_jobs_of_the_manual_are_understood(root: pathlib.Path) -> None:
    """The Kubernetes job makes TF_CONFIG of the pod's index, as TensorFlow's own resolver reads it."""
    page = (root / "docs/pages/guides/workers.md").read_text("utf-8")
    manifest = next(x for x in page.split("```") if x.startswith("yaml"))
    service, job = yaml_texts(manifest.removeprefix("yaml\n"))
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    (script,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    script = script.replace("exec tlt-train", "echo tlt-train") + 'echo "$TF_CONFIG"'
    for index in range(job["spec"]["completions"]):
        environment = {**os.environ, "JOB_COMPLETION_INDEX": str(index)}
        said = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True).stdout
        command, text = said.splitlines()
        assert command.startswith("tlt-train -e ")
        found = workers.of_tf_config({"TF_CONFIG": text})
        assert found is not None
        assert (found.index, list(found.addresses())) == (index, ["train-0.train:2222", "train-1.train:2222"])


def yaml_texts(text: str) -> list[Any]:
    return [parse_yaml(part) for part in text.split("---\n")]


@pytest.mark.parametrize("changed", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": ""}])
def test_slurm_without_tasks_is_one_process(changed: Mapping[str, str]) -> None:
    assert workers.of_slurm({**SLURM, **changed}) is None
