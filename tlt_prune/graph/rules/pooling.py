"""Pooling, resizing and augmentation: they work on the spatial axes and leave the channel axis alone."""

from __future__ import annotations

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.labels import Labels
from tlt_prune.graph.rules.registry import layer


@layer("AveragePooling1D", "AveragePooling2D", "AveragePooling3D", traits=["averaging", "mean preserving"])
@layer(
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
    "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D",
    "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D",
    "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
    "Cropping1D", "Cropping2D", "Cropping3D", "Resizing", "CenterCrop",
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomShear", "RandomPerspective", "RandomCrop",
    "RandomHeight", "RandomWidth", "RandomBrightness", "RandomContrast", "RandomGaussianBlur", "RandomElasticTransform",
    "MaxPool1D", "MaxPool2D", "MaxPool3D", "AvgPool1D", "AvgPool2D", "AvgPool3D",
)  # fmt: skip
def spatial(call: CallTrace, x: Labels) -> Labels:
    axis = call.channel_axis
    return call.place(call.vector(x, axis), axis) if x.size > 1 else x


@layer("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D", traits=["averaging", "mean preserving"])
@layer("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")
def global_pooling(call: CallTrace, x: Labels, *mask: Labels) -> Labels:
    axis = call.channel_axis
    return call.place(call.vector(x, axis), axis if call.op.keepdims else -1)
