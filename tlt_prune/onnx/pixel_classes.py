"""ONNX files of segmentation models that say the class of every pixel, and not a score of each class."""

from __future__ import annotations

import pathlib

from tlt_prune.io import files


def write_classes(source: pathlib.Path, path: pathlib.Path, *, axis: int, one: bool) -> None:
    """Writes the ONNX file `source` with another output: "classes", int32 `(n, height, width)`.

    Args:
        source: a file whose first output has a score of each class, or with `one` the logit of the second of two.
        path: the file to write.
        axis: of the classes.
        one: whether there is one channel.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(source)
    graph, scores = model.graph, model.graph.output[0]
    if one:
        graph.initializer.append(helper.make_tensor("classes_axis", TensorProto.INT64, [1], [axis]))
        graph.initializer.append(helper.make_tensor("classes_border", TensorProto.FLOAT, [], [0.0]))
        nodes = [
            helper.make_node("Squeeze", [scores.name, "classes_axis"], ["classes_logit"], "classes_squeeze"),
            helper.make_node("GreaterOrEqual", ["classes_logit", "classes_border"], ["classes_index"], "classes_compare"),
        ]
    else:
        nodes = [helper.make_node("ArgMax", [scores.name], ["classes_index"], "classes_arg_max", axis=axis, keepdims=0)]
    # TensorRT has no outputs of 64 bits.
    nodes.append(helper.make_node("Cast", ["classes_index"], ["classes"], "classes_cast", to=TensorProto.INT32))
    graph.node.extend(nodes)
    sizes = [x.dim_param or x.dim_value for i, x in enumerate(scores.type.tensor_type.shape.dim) if i != axis]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("classes", TensorProto.INT32, sizes))
    onnx.checker.check_model(model)
    with files.whole_file(path) as partial:
        partial.write_bytes(model.SerializeToString())
