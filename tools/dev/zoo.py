#!/usr/bin/env python3
"""Prunes every architecture of public libraries of Keras models by half, and prints one row per architecture.

    python tools/dev/zoo.py [--environment FOLDER] [--only TEXT]

Needs the libraries: they come into an environment of their own that uses this project's packages (about 100 MB), at
FOLDER (build/zoo by default). The networks have random weights. Columns: parameters in millions; seconds to build, to trace for
the first time (opening and trying included), to trace again, and to prune; the share of parameters left, and with `inline=True`
where it is more than 0.4; the error of the check on random inputs; layers that were not opened; and what failed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import pathlib
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "kimm==0.2.5",
    "medicai==0.0.4",
    "keras-hub==0.32.0",
    "keras-cv-attention-models==1.4.3",
    "kagglehub",
    "kagglesdk",
    "tokenizers",
    "sentencepiece",
    "regex",
)
SHARE = 0.4

KIMM = [
    "ConvMixer736D32",
    "ConvNeXtAtto",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetLiteB0",
    "EfficientNetV2B0",
    "GhostNetW050",
    "GhostNetV2W100",
    "GhostNetV3W050",
    "HGNetTiny",
    "HGNetV2B0",
    "InceptionNeXtTiny",
    "InceptionV3",
    "LCNet050",
    "MobileNetV2W050",
    "MobileNetV3W050Small",
    "MobileOneS0",
    "MobileViTXXS",
    "MobileViTV2W050",
    "RegNetX002",
    "RegNetY002",
    "RepVGGA0",
    "ResNet18",
    "ResNet50",
    "TinyNetE",
    "VGG11",
    "VisionTransformerTiny16",
    "Xception",
]
MEDICAI = [
    "AttentionUNet",
    "ConvNeXtTiny",
    "ConvNeXtV2Atto",
    "DeepLabV3Plus",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "MixViTB0",
    "ResNeXt50",
    "ResNet18",
    "ResNet50",
    "ResNet50v2",
    "ResNet50vd",
    "SEResNeXt50",
    "SEResNet50",
    "SegFormer",
    "SwinTiny",
    "SwinTinyV2",
    "SwinUNETR",
    "TransUNet",
    "UNETR",
    "UNETRPlusPlus",
    "UNet",
    "UNetPlusPlus",
    "UPerNet",
    "ViTBase",
    "Xception",
]


# On tf_keras.
KECAM = [
    "aotnet.AotNet50",
    "beit.ViTTinyPatch16",
    "botnet.BotNet50",
    "caformer.CAFormerS18",
    "cmt.CMTTiny",
    "coat.CoaTLiteTiny",
    "coatnet.CoAtNet0",
    "convnext.ConvNeXtTiny",
    "davit.DaViT_T",
    "edgenext.EdgeNeXt_XX_Small",
    "efficientformer.EfficientFormerL1",
    "efficientvit.EfficientViT_B0",
    "fasternet.FasterNetT0",
    "fastervit.FasterViT0",
    "fastvit.FastViT_T8",
    "gcvit.GCViT_XXTiny",
    "gpvit.GPViT_L1",
    "hiera.HieraTiny",
    "hornet.HorNetTiny",
    "iformer.IFormerSmall",
    "inceptionnext.InceptionNeXtTiny",
    "levit.LeViT128S",
    "maxvit.MaxViT_Tiny",
    "mlp_family.MLPMixerS32",
    "mlp_family.GMLPTiny16",
    "mlp_family.ResMLP12",
    "moganet.MogaNetXtiny",
    "nfnets.NFNetF0",
    "pvt.PVT_V2B0",
    "repvit.RepViT_M09",
    "resnest.ResNest50",
    "swin_transformer_v2.SwinTransformerV2Tiny_window8",
    "tinyvit.TinyViT_5M",
    "uniformer.UniformerSmall32",
    "vanillanet.VanillaNet5",
    "volo.VOLO_d1",
    "yolov8.YOLOV8_N",
]


def kecam() -> Iterator[tuple[str, Callable[[], Any]]]:
    for name in KECAM:
        module, _, cls = name.partition(".")
        make = getattr(importlib.import_module(f"keras_cv_attention_models.{module}"), cls)
        size = 256 if cls.endswith("window8") else 224
        options = {"input_shape": (size, size, 3), "pretrained": None, "num_classes": 10}
        yield name, lambda make=make, options=options: make(**options)


def kimm() -> Iterator[tuple[str, Callable[[], Any]]]:
    models = importlib.import_module("kimm.models")
    for name in KIMM:
        size = 224 if "VisionTransformer" in name else 128
        cls = getattr(models, name)
        yield name, lambda cls=cls, size=size: cls(input_shape=(size, size, 3), weights=None, classes=10)


def medicai() -> Iterator[tuple[str, Callable[[], Any]]]:
    models = importlib.import_module("medicai.models")
    flat = {"input_shape": (96, 96, 3), "num_classes": 3}
    deep = {"input_shape": (64, 64, 64, 1), "num_classes": 3}
    encoder = {"encoder_name": "efficientnet_b0"}
    further: dict[str, dict[str, Any]] = {
        "UNet": {**flat, **encoder}, "AttentionUNet": {**flat, **encoder}, "UNetPlusPlus": {**flat, **encoder},
        "DeepLabV3Plus": {**flat, "encoder_name": "resnet50"}, "UPerNet": {**flat, "encoder_name": "convnext_tiny"},
        "SegFormer": {**flat, "encoder_name": "mit_b0"}, "SwinUNETR": deep, "UNETR": deep, "UNETRPlusPlus": deep,
        "TransUNet": flat, "SwinTiny": {**flat, "input_shape": (224, 224, 3)},
        "SwinTinyV2": {**flat, "input_shape": (256, 256, 3)},
    }  # fmt: skip
    for name in MEDICAI:
        cls, arguments = getattr(models, name), further.get(name, flat)
        yield name, lambda cls=cls, arguments=arguments: cls(**arguments)


def keras_hub() -> Iterator[tuple[str, Callable[[], Any]]]:
    m = importlib.import_module("keras_hub.models")
    text = {"vocabulary_size": 200, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "intermediate_dim": 128}
    positions = {"max_sequence_length": 16}
    grouped = {
        "vocabulary_size": 200, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 64,
        "intermediate_dim": 128,
    }  # fmt: skip
    picture = {"image_shape": (64, 64, 3)}
    yield "BertBackbone", lambda: m.BertBackbone(**text, **positions)
    yield "RobertaBackbone", lambda: m.RobertaBackbone(**text, **positions)
    yield "DistilBertBackbone", lambda: m.DistilBertBackbone(**text, **positions)
    yield "AlbertBackbone", lambda: m.AlbertBackbone(**text, embedding_dim=32, **positions)
    yield (
        "ElectraBackbone",
        lambda: m.ElectraBackbone(
            vocab_size=200, num_layers=2, num_heads=4, hidden_dim=64, embedding_dim=64, intermediate_dim=128, **positions
        ),
    )
    yield "DebertaV3Backbone", lambda: m.DebertaV3Backbone(**text, **positions, bucket_size=8)
    yield (
        "FNetBackbone",
        lambda: m.FNetBackbone(vocabulary_size=200, num_layers=2, hidden_dim=64, intermediate_dim=128, **positions),
    )
    yield "GPT2Backbone", lambda: m.GPT2Backbone(**text, **positions)
    yield "GPTNeoXBackbone", lambda: m.GPTNeoXBackbone(**text, **positions)
    yield "OPTBackbone", lambda: m.OPTBackbone(**text, **positions)
    yield "BloomBackbone", lambda: m.BloomBackbone(**text, **positions)
    yield "LlamaBackbone", lambda: m.LlamaBackbone(**grouped)
    yield "MistralBackbone", lambda: m.MistralBackbone(**grouped)
    yield "GemmaBackbone", lambda: m.GemmaBackbone(**grouped, head_dim=16)
    yield "T5Backbone", lambda: m.T5Backbone(**text)
    yield "BartBackbone", lambda: m.BartBackbone(**text, **positions)
    yield "ViTBackbone", lambda: m.ViTBackbone(**picture, patch_size=16, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128)
    yield "ResNetBackbone", lambda: m.ResNetBackbone(
        input_conv_filters=[32], input_conv_kernel_sizes=[7], stackwise_num_filters=[32, 64], stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2], block_type="bottleneck_block", **picture,
    )  # fmt: skip
    yield "DenseNetBackbone", lambda: m.DenseNetBackbone(stackwise_num_repeats=[3, 6], **picture)
    yield (
        "CSPDarkNetBackbone",
        lambda: m.CSPDarkNetBackbone(stackwise_num_filters=[32, 64], stackwise_depth=[1, 2], block_type="basic_block", **picture),
    )
    yield "MiTBackbone", lambda: m.MiTBackbone(
        max_drop_path_rate=0.1, layer_norm_epsilon=1e-6, qkv_bias=True, projection_dims=[32, 64], depths=[2, 2], num_layers=2,
        blockwise_num_heads=[1, 2], blockwise_sr_ratios=[8, 4], hidden_dims=[32, 64], patch_sizes=[7, 3], strides=[4, 2],
        **picture,
    )  # fmt: skip


def with_head(model: Any) -> Any:
    """A backbone with a classifier behind it, for sequences of 16 tokens: what comes out of a model stays as it is."""
    import keras

    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=(None, *(n or 16 for n in x.shape[1:])), dtype=x.dtype), model.input
    )
    outputs = [x for x in keras.tree.flatten(model.call(inputs)) if "float" in str(x.dtype)]
    pooled = [keras.ops.mean(x, axis=tuple(range(1, len(x.shape) - 1))) if len(x.shape) > 2 else x for x in outputs]
    return keras.Model(inputs, [keras.layers.Dense(3)(x) for x in pooled])


LIBRARIES: dict[str, Callable[[], Iterator[tuple[str, Callable[[], Any]]]]] = {
    "kimm": kimm,
    "medicai": medicai,
    "keras_hub": keras_hub,
    "kecam": kecam,
}


def row(library: str, name: str, build: Callable[[], Any]) -> dict[str, Any]:
    """One architecture: built, pruned by half, with its classes kept and inlined, and what came of it."""
    import keras

    from tlt_prune.graph import dtype_name

    result: dict[str, Any] = {"library": library, "architecture": name}
    keras.utils.set_random_seed(0)
    started = time.perf_counter()
    try:
        model = build()
        model(keras.tree.map_structure(lambda x: np.ones([n or 1 for n in x.shape], dtype_name(x)), model.input))
        if library == "keras_hub":
            model = with_head(model)
    except Exception as error:  # noqa: BLE001
        return {**result, "error": f"does not build or run: {type(error).__name__}"}
    result |= {"params_m": model.count_params() / 1e6, "build_s": time.perf_counter() - started}
    result |= pruned(model, inline=False)
    if result.get("left", 1.0) > SHARE and library != "kecam":
        inlined = pruned(model, inline=True)
        result["inlined"] = inlined.get("left", 1.0)
        if "error" in inlined:
            result["error"] = f"inlined: {inlined['error']}"
    return result


def pruned(model: Any, *, inline: bool) -> dict[str, Any]:
    """What a prune by half leaves, and whether it is exact."""
    import tlt_prune
    from tlt_prune.config import options_of
    from tlt_prune.graph import trace
    from tlt_prune.pruning.planning import decide
    from tlt_prune.pruning.rewrite.law import check_law

    result: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        channels = trace(model, inline=inline)
        result["trace_s"] = time.perf_counter() - started
        again = time.perf_counter()
        channels = trace(model, inline=inline)
        result["again_s"] = time.perf_counter() - again
        started += result["again_s"]
        decision = decide(channels, options_of({"ratio": 0.5, "granularity": 1, "min_num_filters": 1, "inline": inline}))
        plan = decision.plan
        result |= {"left": plan.params_after / plan.params_before, "unknown": sorted({*plan.unknown.values()})}
        smaller = decision.carry_out(verify=False).model
        result["prune_s"] = time.perf_counter() - started
        law = check_law(channels, decision.alive, smaller)
        result |= {"difference": law.relative_error, "approximate": bool(law.approximate)}
    except tlt_prune.TltPruneError as error:
        result["error"] = f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {error}"
    return result


def environment(folder: pathlib.Path) -> pathlib.Path:
    """The Python of an environment that has the libraries, and this one's packages besides."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        (places,) = folder.glob("lib/python3*/site-packages")
        own = [path for path in sys.path if path.endswith("site-packages")]
        (places / "project.pth").write_text("\n".join([*own, str(ROOT)]) + "\n", "utf-8")
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=pathlib.Path, default=ROOT / "build/zoo")
    parser.add_argument("--only", default="", help="text that library/architecture holds")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.inside:
        python = environment(given.environment)
        sys.exit(subprocess.run([python, __file__, *sys.argv[1:], "--inside"]).returncode)
    # What looks for `tf.keras` finds tf_keras.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
    warnings.simplefilter("ignore")
    rows = []
    for library, architectures in LIBRARIES.items():
        for name, build in architectures():
            if given.only in f"{library}/{name}":
                rows.append(row(library, name, build))
                print(line(rows[-1]), flush=True)
                gc.collect()
    ran = [x for x in rows if "params_m" in x]
    small = [x for x in ran if min(x.get("left", 1.0), x.get("inlined", 1.0)) <= SHARE and "error" not in x]
    wrong = [x for x in ran if "error" in x]
    print(f"\n{len(rows)} architectures, {len(ran)} run, {len(wrong)} end in an error, {len(small)} come to {SHARE} or less.")


def line(x: dict[str, Any]) -> str:
    """One row as text."""
    name = f"{x['library']}/{x['architecture']}"
    seconds = dict.fromkeys(("build_s", "trace_s", "again_s", "prune_s"), "6.1f")
    columns = {"params_m": "7.2f", **seconds, "left": "6.2f", "inlined": "6.2f"}
    numbers = "".join(f" {x[key]:{form}}" if key in x else " " * (1 + int(form[0])) for key, form in columns.items())
    difference = f" {x['difference']:.0e}" if "difference" in x else ""
    rest = " ".join(x.get("unknown", ())) or ""
    return f"{name:34s}{numbers}{difference} {rest} {x.get('error', '')[:300]}"


if __name__ == "__main__":
    main()
