"""Small named graphs, one kind of difficulty each. `g` builds layers of either Keras; `ops` are raw operations.

Every function returns a model whose outputs depend on its channels; `EXACT` lists those that obey the law,
`APPROXIMATE` those whose statistics change, `KERAS3` those that need something tf_keras does not have.
"""

from gallery import attention, merging, moving, normalization, operations, products, structure, weighted
from gallery.cases import APPROXIMATE, EXACT, FROZEN, KERAS3, WITHOUT_GRADIENTS

__all__ = [
    "APPROXIMATE",
    "EXACT",
    "FROZEN",
    "KERAS3",
    "WITHOUT_GRADIENTS",
    "attention",
    "merging",
    "moving",
    "normalization",
    "operations",
    "products",
    "structure",
    "weighted",
]
