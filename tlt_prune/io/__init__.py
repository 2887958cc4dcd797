"""Files, places, console and frameworks."""

from typing import TYPE_CHECKING

from tlt_prune.faces import lazy_face

if TYPE_CHECKING:
    from tlt_prune.io.console import progress, say
    from tlt_prune.io.figures import AFTER, BEFORE, OTHER, new_figure, new_grid, new_row, save_figure
    from tlt_prune.io.frameworks import import_frameworks
    from tlt_prune.io.model_files import check_archive, load_keras, machine_error, refuse_foreign
    from tlt_prune.io.model_info import ModelInfo
    from tlt_prune.io.places import Output
    from tlt_prune.io.registration import register_with_keras

__all__ = [
    "AFTER",
    "BEFORE",
    "OTHER",
    "ModelInfo",
    "Output",
    "check_archive",
    "import_frameworks",
    "load_keras",
    "machine_error",
    "new_figure",
    "new_grid",
    "new_row",
    "progress",
    "refuse_foreign",
    "register_with_keras",
    "save_figure",
    "say",
]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "console": ("progress", "say"),
        "figures": ("AFTER", "BEFORE", "OTHER", "new_figure", "new_grid", "new_row", "save_figure"),
        "frameworks": ("import_frameworks",),
        "model_files": ("check_archive", "load_keras", "machine_error", "refuse_foreign"),
        "model_info": ("ModelInfo",),
        "places": ("Output",),
        "registration": ("register_with_keras",),
    },
)
