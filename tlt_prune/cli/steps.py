"""How far a pruning schedule has come, in a file beside its models."""

from __future__ import annotations

import hashlib
import json
import pathlib

from tlt_prune import files
from tlt_prune.errors import SpecError
from tlt_prune.specs import Spec


class StepRecord:
    """The last step that was pruned, and what it belongs to: the model, the way it is pruned, trained, and the data.

    Attributes:
        pruned: number of the last step whose pruned model was written, 0 for none.

    Raises:
        SpecError: the file belongs to something else.
    """

    def __init__(self, path: pathlib.Path, source: str, spec: Spec) -> None:
        self._path = path
        digest = hashlib.sha256(pathlib.Path(source).read_bytes())
        digest.update(json.dumps([x.model_dump() for x in (spec.prune, spec.train, spec.dataset)], default=str).encode())
        self._of = digest.hexdigest()
        self.pruned = 0
        if path.exists():
            record = json.loads(path.read_text("utf-8"))
            if record["of"] != self._of:
                raise SpecError(
                    f"prune.schedule: {path.parent} holds the steps of another model or other settings. Expected another "
                    "prune.output_path (-o), or that folder removed."
                )
            self.pruned = record["pruned"]

    def done(self, step: int) -> None:
        files.output_folder(self._path.parent)
        files.write_text(self._path, json.dumps({"of": self._of, "pruned": step}))
        self.pruned = step
