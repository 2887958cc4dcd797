"""The tasks of this package: importing this module registers them. It is the entry point that specs find them by."""

import importlib
import pkgutil

import tlt_prune.tasks as package

# A task is a module or package beside this one; those that define none have no effect.
for _module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"{package.__name__}.{_module.name}")
