"""The toolkit's architectures, by its layer names: `build("resnet18", (224, 224, 3), classes=10)`."""

from tlt_prune.models.blocks import ArchitectureOptions
from tlt_prune.models.registry import build, classifier, names, own_options, register_architecture, register_network
from tlt_prune.models.weights import load_weights_by_name

__all__ = [
    "ArchitectureOptions",
    "build",
    "classifier",
    "load_weights_by_name",
    "names",
    "own_options",
    "register_architecture",
    "register_network",
]
