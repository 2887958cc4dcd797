"""Settings: the options of a prune, the sections of a spec, and how spec files are read."""

from tlt_prune.config.options import Options
from tlt_prune.config.sections import Spec
from tlt_prune.config.specs import load_spec, parse_value, spec_from_dict, to_yaml

__all__ = ["Options", "Spec", "load_spec", "parse_value", "spec_from_dict", "to_yaml"]
