"""UNet: semantic segmentation with an encoder, a decoder and skips (arXiv:1505.04597), on the toolkit's backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras

from tlt_prune.models.blocks import ArchitectureOptions, Net
from tlt_prune.models.registry import register_network

# ResNets: filters of the transposed convolutions.
_RESNET = (256, 128, 64, 64)
_VGG = (512, 256, 128, 64, 64)
_EFFICIENT = (512, 256, 128, 64, 32)
# Filters of an encoder, from the top; the last is the bottom.
_VANILLA = (64, 128, 256, 512, 1024)
_DYNAMIC = (32, 64, 128, 256, 512, 1024)


@register_network(
    "unet",
    {
        **{f"resnet{n}": {"use_pooling": False} for n in (10, 18, 34, 50, 101)},
        **{f"vgg{n}": {} for n in (16, 19)},
        # Its encoder keeps batch normalization in any case, as in the toolkit.
        "efficientnet_b0": {"use_batch_norm": True},
        "shufflenet": {},
        "vanilla": None,
        "vanilla_dynamic": None,
    },
)
def unet(
    base: keras.Model,
    backbone: str,
    classes: int | None,
    *,
    output: Literal["softmax", "sigmoid"] = "softmax",
    probabilities: bool = False,
    kernel_initializer: str = "glorot_uniform",
    options: ArchitectureOptions | None = None,
) -> keras.Model:
    """Builds a UNet. Its input's height and width are multiples of 32, of 16 with a ResNet; "vanilla" loses 184 of each.

    Args:
        base: the encoder, without a head; for "vanilla" and "vanilla_dynamic" a model that returns its input.
        backbone: its name.
        classes: number of classes, the background included.
        output: "softmax" has a channel for each class; "sigmoid" has one in all, for two classes.
        probabilities: probabilities come out, with the classes last, and not logits.
        kernel_initializer: of the decoder's convolutions, but for the last.
        options: what all architectures share.

    Returns:
        A model whose output has the channels in the data format's place.

    Raises:
        ValueError: the classes are missing or do not fit the output, or the input has another size.
    """
    if output not in ("softmax", "sigmoid"):
        raise ValueError(f"Expected output to be 'softmax' or 'sigmoid'. Received: {output!r}.")
    if classes is None or classes < 2 or (output == "sigmoid" and classes != 2):
        wanted = "2, one of them the background, for output='sigmoid'" if output == "sigmoid" else "at least 2"
        raise ValueError(f"Expected classes to be {wanted}. Received: classes={classes}.")
    options = options or ArchitectureOptions()
    shape, multiple = base.inputs[0].shape, 16 if backbone.startswith("resnet") else 32
    sizes = shape[2:] if options.data_format == "channels_first" else shape[1:3]
    if backbone != "vanilla" and any(n is not None and n % multiple for n in sizes):
        raise ValueError(f"Expected height and width of a UNet on {backbone} to be multiples of {multiple}. Received: {sizes}.")
    decoder = _Decoder(base, options, kernel_initializer)
    x = decoder.run(backbone, 1 if output == "sigmoid" else classes)
    if probabilities and output == "softmax":
        x = keras.layers.Softmax(name=decoder.net.name("Softmax"))(decoder.net.last(x))
    elif probabilities:
        x = keras.layers.Activation("sigmoid", name="sigmoid")(x)
    return keras.Model(base.inputs[0], x, name=f"unet_{backbone}")


class _Decoder:
    """The decoders, each by the kind of its encoder."""

    def __init__(self, base: keras.Model, options: ArchitectureOptions, initializer: str) -> None:
        self.net = Net(options, after=base)
        self._base = base
        self._initializer: dict[str, Any] = {"kernel_initializer": initializer}

    def run(self, backbone: str, outputs: int) -> keras.KerasTensor:
        """The logits."""
        if backbone == "shufflenet":
            return self._scores_added(outputs)
        kernel = 3 if backbone.startswith("resnet") else 1
        # By a kernel of one position both paddings are the same; the toolkit's models state "valid" where they are its own.
        padding = "valid" if backbone.startswith("vanilla") else "same"
        for stem, decode in (
            ("resnet", self._resnet),
            ("vgg", self._vgg),
            ("efficientnet", self._efficient),
            ("vanilla_dynamic", self._dynamic),
            ("vanilla", self._vanilla),
        ):
            if backbone.startswith(stem):
                features = decode(f"{backbone}_")
                return self.net.output_conv(features, outputs, kernel, padding=padding)
        raise ValueError(f"There is no decoder for backbone={backbone!r}.")

    def _skip(self, name: str) -> keras.KerasTensor:
        return self._base.get_layer(name).output

    def _up(self, x: keras.KerasTensor, filters: int, kernel: int) -> keras.KerasTensor:
        return self.net.conv_transpose(x, filters, kernel, 2, use_bias=True, **self._initializer)

    def _conv(self, x: keras.KerasTensor, filters: int, *, use_bias: bool = True) -> keras.KerasTensor:
        return self.net.conv(x, filters, 3, use_bias=use_bias, **self._initializer)

    def _resnet(self, backbone: str) -> keras.KerasTensor:
        net, x = self.net, self._base.outputs[0]
        letter = "a" if backbone == "resnet10_" else "b"
        skips: Sequence[str | None] = (f"block_2{letter}_relu", f"block_1{letter}_relu", "activation_1", None)
        for filters, skip in zip(_RESNET, skips, strict=True):
            x = self._up(x, filters, 4)
            if skip is not None:
                x = net.concat(x, self._skip(skip))
            x = net.act(net.norm(x), kind="relu")
            x = net.act(net.norm(self._conv(x, filters)), kind="relu")
        return x

    def _vgg(self, backbone: str) -> keras.KerasTensor:
        net = self.net
        x = net.max_pool(self._base.outputs[0], 2, 2)
        skips = (*(f"block{n}_pool" for n in (4, 3, 2, 1)), f"block_1a_{net.activation}")
        for filters, skip in zip(_VGG, skips, strict=True):
            x = net.concat(self._up(x, filters, 4), self._skip(skip))
            # As in the toolkit: no activation between them.
            x = self._conv(self._conv(x, filters), filters)
        return x

    def _efficient(self, backbone: str) -> keras.KerasTensor:
        net, x = self.net, self._base.outputs[0]
        always = Net(ArchitectureOptions(data_format=net.options.data_format, freeze_bn=net.options.freeze_bn))
        skips = (*(f"block{n}a_project_bn" for n in (5, 3, 2, 1)), None)
        for filters, skip in zip(_EFFICIENT, skips, strict=True):
            x = self._up(x, filters, 2)
            if skip is not None:
                x = net.concat(x, self._skip(skip))
            # The first is normalized in any case, as in the toolkit.
            y = self._conv(x, filters, use_bias=False)
            x = net.act(always.norm(y, net.name("BatchNormalization")), kind="relu")
            x = net.act(net.norm(self._conv(x, filters, use_bias=False)), kind="relu")
        return x

    def _dynamic(self, backbone: str) -> keras.KerasTensor:
        net, x = self.net, self._base.outputs[0]
        skips = []
        for filters in _DYNAMIC[:-1]:
            x = self._twice(x, filters)
            skips.append(x)
            x = net.max_pool(x, 2, 2, "valid")
        x = self._twice(x, _DYNAMIC[-1])
        for filters, skip in zip(reversed(_DYNAMIC[:-1]), reversed(skips), strict=True):
            x = net.concat(skip, self._up(x, filters, 2))
            x = self._twice(net.act(net.norm(x), kind="relu"), filters)
        return x

    def _twice(self, x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
        for _ in range(2):
            x = self.net.act(self.net.norm(self._conv(x, filters)), kind="relu")
        return x

    def _vanilla(self, backbone: str) -> keras.KerasTensor:
        net, x = self.net, self._base.outputs[0]
        style: dict[str, Any] = {"padding": "valid", "activation": "relu", **self._initializer}
        skips = []
        for filters in _VANILLA[:-1]:
            x = net.conv(net.conv(x, filters, 3, **style), filters, 3, **style)
            skips.append(x)
            x = net.max_pool(x, 2, 2, "valid")
        x = net.conv(net.conv(x, _VANILLA[-1], 3, **style), _VANILLA[-1], 3, **style)
        for filters, skip in zip(reversed(_VANILLA[:-1]), reversed(skips), strict=True):
            x = net.conv_transpose(x, filters, 3, 2, use_bias=True, activation="relu", **self._initializer)
            x = net.concat(x, self._cropped(skip, x))
            x = net.conv(net.conv(x, filters, 3, **style), filters, 3, **style)
        return x

    def _cropped(self, skip: keras.KerasTensor, wanted: keras.KerasTensor) -> keras.KerasTensor:
        """The middle of a map, as large as another."""
        surplus = [(a or 0) - (b or 0) for a, b in zip(self.net.spatial(skip), self.net.spatial(wanted), strict=True)]
        cropping = tuple((n // 2, n - n // 2) for n in surplus)
        name = self.net.name("Cropping2d")
        return keras.layers.Cropping2D(cropping, data_format=self.net.options.data_format, name=name)(skip)

    def _scores_added(self, outputs: int) -> keras.KerasTensor:
        """As in FCN-8 (arXiv:1411.4038): scores at strides of 32, 16 and 8, each on the one above."""
        net, x = self.net, self._base.outputs[0]
        deep: dict[str, Any] = {"use_bias": False}
        # The name of that encoder's own head.
        x = net.output_conv(x, outputs, 1, "score_fr", padding="valid")
        for skip in ("stage3_block8_relu_out", "stage2_block4_relu_out"):
            x = keras.layers.Conv2DTranspose(
                outputs, 4, strides=2, padding="same", data_format=net.options.data_format,
                name=net.name("Conv2dTranspose"), **deep,
            )(x)  # fmt: skip
            x = net.add(x, net.output_conv(self._skip(skip), outputs, 1))
        return keras.layers.Conv2DTranspose(
            outputs, 16, strides=8, padding="same", data_format=net.options.data_format, name=net.name("Conv2dTranspose"), **deep
        )(x)
