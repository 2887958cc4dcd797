"""Settings: the options of a prune, the sections of a spec, and how spec files are read."""

from tlt_prune.config.explained import explained
from tlt_prune.config.options import BUDGETS, LayerOptions, OptionArguments, Options, options_of, options_spelled_out, with_budget
from tlt_prune.config.plugins import EXPORT_FORMATS, TASKS, load_plugins, provide
from tlt_prune.config.registry import COMPENSATIONS, CRITERIA, Registry
from tlt_prune.config.sections import Export, Spec
from tlt_prune.config.settings import Settings, checked, is_count, names_of
from tlt_prune.config.specs import (
    AugmentationConfig,
    Dataset,
    LRConfig,
    load_spec,
    parse_overrides,
    parse_value,
    read_yaml,
    spec_from_dict,
    to_yaml,
)
from tlt_prune.config.texts import TextError, check_name, decoded, json_of, nfc, read_json, read_json_lines, read_lines, shown
from tlt_prune.config.train_sections import EarlyStop, OptimConfig, QatConfig, RegConfig, Train

__all__ = [
    "BUDGETS",
    "COMPENSATIONS",
    "CRITERIA",
    "EXPORT_FORMATS",
    "TASKS",
    "AugmentationConfig",
    "Dataset",
    "EarlyStop",
    "Export",
    "LRConfig",
    "LayerOptions",
    "OptimConfig",
    "OptionArguments",
    "Options",
    "QatConfig",
    "RegConfig",
    "Registry",
    "Settings",
    "Spec",
    "TextError",
    "Train",
    "check_name",
    "checked",
    "decoded",
    "explained",
    "is_count",
    "json_of",
    "load_plugins",
    "load_spec",
    "names_of",
    "nfc",
    "options_of",
    "options_spelled_out",
    "parse_overrides",
    "parse_value",
    "provide",
    "read_json",
    "read_json_lines",
    "read_lines",
    "read_yaml",
    "shown",
    "spec_from_dict",
    "to_yaml",
    "with_budget",
]
