"""The formats that `tlt-export` writes, one file each: a new one is a new file in this folder, and nothing else.

A format of another package is a module that registers it and is named as an entry point of the group "tlt_prune.export_formats":

    [options.entry_points]
    tlt_prune.export_formats =
        openvino = my_package.openvino_format
"""

import importlib
import pkgutil

from tlt_prune.export.formats.registry import ExportFormat, format_names, formats_of, register_format, scoped_formats

__all__ = ["ExportFormat", "format_names", "formats_of", "register_format", "scoped_formats"]

# Importing them registers their formats.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
