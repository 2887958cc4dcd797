"""Layers that make a network's inputs from words, numbers, sound or colors: nothing in front of them can go."""

from __future__ import annotations

from typing import Any

from tlt_prune.graph.call_trace import CallTrace
from tlt_prune.graph.labels import Labels
from tlt_prune.graph.rules.registry import layer


@layer(
    "CategoryEncoding", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup", "StringLookup", "TextVectorization",
    "MelSpectrogram", "STFTSpectrogram",
    "AugMix", "AutoContrast", "CutMix", "Equalization", "MixUp", "RandAugment", "RandomColorDegeneration", "RandomColorJitter",
    "RandomErasing", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPosterization", "RandomSaturation", "RandomSharpness",
    "Solarization",
)  # fmt: skip
def preprocessing(call: CallTrace, *xs: Labels) -> Any:
    return call.freeze_all(xs, f"preprocessing by {type(call.op).__name__}")
