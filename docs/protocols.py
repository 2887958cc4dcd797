"""An extension of griffe, which collects docstrings: protocols have no constructor of their own."""

from __future__ import annotations

from typing import Any

import griffe


class Protocols(griffe.Extension):
    """Forgets constructors that `typing` puts into protocols: they lead out of this package and say nothing."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        constructor = cls.members.get("__init__")
        if constructor is not None and constructor.is_alias:
            cls.del_member("__init__")
