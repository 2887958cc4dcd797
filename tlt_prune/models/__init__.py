"""The toolkit's architectures, by its layer names: `build("resnet18", (224, 224, 3), classes=10)`."""

from tlt_prune.models.blocks import Options
from tlt_prune.models.registry import build, names
from tlt_prune.models.resnet import resnet

__all__ = ["Options", "build", "names", "resnet"]
