"""How each layer type treats channel labels: one small function a type, in one registry.

A rule is `rule(call, x, ...) -> labels`, with one label array an input tensor (in the order of the
call's arguments) and one an output tensor. `call` is a `tlt_prune.graph.channels.CallTrace`. Rules of
built-in layers are registered by name, so that they serve Keras 3 and tf_keras alike; rules of custom
layers by class. A layer without a rule freezes what enters it.
"""

from typing import Any

from tlt_prune.graph.rules.registry import Rule, find, register_rule, scoped

__all__ = ["Rule", "channelwise", "find", "register_rule", "scoped"]


def channelwise(call: Any, *xs: Any) -> Any:
    """The rule of a layer that the user declared to treat every channel by itself."""
    from tlt_prune.graph.rules.merging import combine

    return combine(call, list(xs), call.in_shapes)
