"""Rules: the treatment of channel labels by each type of layer, one small function per type, in one registry.

A rule is `rule(call, x, ...) -> labels`, with one label array an input tensor (in the order of the
call's arguments) and one an output tensor. `call` is a `tlt_prune.graph.call_trace.CallTrace`. Rules of
built-in layers are registered by name, so that they serve Keras 3 and tf_keras alike; rules of custom
layers by class. A layer without a rule freezes what enters it.
"""

# Importing them registers their rules.
from tlt_prune.graph.rules import (
    attention,
    elementwise,
    gathering,
    inner,
    merging,
    moving,
    normalization,
    pooling,
    preprocessing,
    products,
    raw,
    recurrent,
    tf_nn,
    tf_ops,
    weighted,
)
from tlt_prune.graph.rules.merging import channelwise
from tlt_prune.graph.rules.registry import (
    Rule,
    Trait,
    accepts,
    find,
    inherits_trait,
    is_given_facets,
    register_rule,
    scoped,
    states_trait,
    wrapped,
)

__all__ = [
    "Rule",
    "Trait",
    "accepts",
    "attention",
    "channelwise",
    "elementwise",
    "find",
    "gathering",
    "inherits_trait",
    "inner",
    "is_given_facets",
    "merging",
    "moving",
    "normalization",
    "pooling",
    "preprocessing",
    "products",
    "raw",
    "recurrent",
    "register_rule",
    "scoped",
    "states_trait",
    "tf_nn",
    "tf_ops",
    "weighted",
    "wrapped",
]  # fmt: skip
