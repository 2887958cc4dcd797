"""Numbers that take long to come by, kept in a file of JSON lines as they come: another run goes on from there."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Annotated

import pydantic
from pydantic import Field

from tlt_prune.config import Settings, checked, read_json_lines
from tlt_prune.errors import DataError, PlanError
from tlt_prune.io import files

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class ResultFile:
    """A file with one number per line, each under a key.

    Args:
        path: the file; None keeps nothing.
        identity: checksum of all that the numbers depend on.
        what: made the numbers, for errors: "criterion Ablation".
        of: described likewise: "an ablation".
        names: of the key and of the number in a line.
        depends: that the numbers depend on, for errors: "model, other data or another metric".
    """

    def __init__(
        self, path: str | pathlib.Path | None, identity: str, *, what: str, of: str, names: tuple[str, str], depends: str
    ) -> None:
        self._path = pathlib.Path(path) if path is not None else None
        self._identity, self._what, self._of, self._depends = identity, what, of, depends
        self._key, self._value = names

    def begin(self) -> dict[str, float]:
        """What is known already. The file loses the end of a line that another run was ended in.

        Raises:
            PlanError: the file holds something else, or the numbers of something else.
        """
        known: dict[str, float] = {}
        if self._path is None:
            return known
        if self._path.exists():
            known = self._known(self._path)
        lines = [json.dumps({"of": self._identity}), *(self._line(key, value) for key, value in known.items())]
        with files.apart():
            files.write_text(self._path, "".join(f"{line}\n" for line in lines))
        return known

    def append(self, key: str, value: float) -> None:
        """Adds a number."""
        if self._path is not None:
            files.append_line(self._path, self._line(key, value))

    def _known(self, path: pathlib.Path) -> dict[str, float]:
        # Earlier versions wrote all numbers of an ablation into the first line.
        head_kind = pydantic.create_model("Header", __base__=Settings, of=(str, ...), metrics=(Mapping[str, _Finite], {}))
        fields = {self._key: (str, ...), self._value: (_Finite, ...)}
        line_kind = pydantic.create_model("Line", __base__=Settings, **fields)  # type: ignore[call-overload]
        try:
            header, *lines = read_json_lines(path, f"results of {self._of}", most=2**26)
            head = checked(head_kind, header, str(path), PlanError).model_dump()
            entries = [checked(line_kind, line, str(path), PlanError).model_dump() for line in lines]
        except (DataError, PlanError) as error:
            raise PlanError(f"{self._what}: {path} holds no results of {self._of}. {error} Expected another file.") from error
        if head["of"] == self._identity:
            return {**head["metrics"], **{x[self._key]: x[self._value] for x in entries}}
        raise PlanError(
            f"{self._what}: {path} holds the results of another {self._depends}. Expected another file, or none there."
        )

    def _line(self, key: str, value: float) -> str:
        return json.dumps({self._key: key, self._value: value})
