"""The section `train` of a spec, and the sections in it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from tlt_prune.config.settings import Settings
from tlt_prune.config.values import Batch, CalibrationMethod, Count, Epochs, NonNegative, Percentile, Positive, Share


class RegConfig(Settings):
    """Weight decay, the reason why filters become prunable."""

    type: Literal["L1", "L2", "group_lasso", "none"] = "L2"
    """Penalty; "group_lasso" is the sum of the filters' norms, which drives whole filters to zero."""
    scope: tuple[Literal["conv2d", "dense"], ...] = ("conv2d", "dense")
    """Layer kinds that get it: "conv2d" (all convolutions) and "dense"."""
    weight_decay: NonNegative = 1.5e-5
    """Factor of the sum of |w| or w^2 of kernels."""
    bias: bool = False
    """Regularize biases as well."""
    bn_scale_decay: NonNegative = 0.0
    """Factor of the sum of |gamma| of batch normalizations, which prepares for `prune.criterion: BNScale`."""


class BNConfig(Settings):
    """Batch normalization of the models this package builds; the default is the toolkit templates' own."""

    momentum: Share = 0.99
    """Of the moving mean and variance. With few steps per epoch 0.9 follows better."""
    epsilon: Positive = 1e-3
    """Added to the variance."""
    synchronized: bool = False
    """Statistics of the whole batch where several GPUs or machines train; else each has those of its part."""


class OptimConfig(Settings):
    """Optimizer."""

    optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    """Its name."""
    decay: NonNegative = 0.0
    """Divides the schedule's rate by 1 + decay * step, as Keras 2's optimizers did."""
    rho: Share = 0.9
    """Discount of past squared gradients, of RMSprop."""
    momentum: Share = 0.9
    """Of SGD."""
    nesterov: bool = True
    """Nesterov momentum, of SGD."""
    beta_1: Share = 0.9
    """Decay of the first moment, of Adam."""
    beta_2: Share = 0.999
    """Decay of the second moment, of Adam."""
    epsilon: Positive = 1e-7
    """Added to the denominator, of Adam and RMSprop."""


class LRConfig(Settings):
    """Learning rate at every step: see `tlt_prune.training.learning_rate`."""

    scheduler: Literal[
        "soft_anneal", "cosine", "step", "exponential", "soft_start_annealing", "constant", "cosine_decay", "exponential_decay"
    ] = "cosine"
    """That of "soft_start_annealing" rises from and falls back to `min_lr_ratio`, evenly on a logarithmic scale. The others rise
    linearly; then "soft_anneal" is divided at `annealing_points`, "cosine" falls as half a cosine to 0, "step" falls by
    `gamma` at every `step_size`, and "exponential" by the same factor evenly. Those of the toolkit's UNet do not rise:
    "constant"; "cosine_decay", half a cosine down to `min_lr_ratio` in `decay_steps`; "exponential_decay", by `gamma` after
    every `decay_steps`."""
    decay_steps: Annotated[int, Field(ge=1, lt=2**31)] = 1000
    """Batches, of "cosine_decay" and "exponential_decay"."""
    gamma: Share = 0.1
    """Factor of "step" and "exponential"."""
    step_size: Annotated[float, Field(gt=0, le=100)] = 10.0
    """Per cent of the training after which "step" and "exponential" have fallen by `gamma`."""
    learning_rate: Positive | Literal["auto"] = "auto"
    """Highest rate; "auto" is 0.05, and for a classifier that was pruned and is retrained what a range test finds."""
    soft_start: Share = 0.05
    """Share of the training over which the rate rises."""
    annealing_points: tuple[Share, ...] = (0.33, 0.66, 0.88)
    """Shares of the training at which "soft_anneal" falls."""
    annealing_divider: Positive = 10.0
    """Divisor of the rate at each of them."""
    annealing: Share = 0.7
    """Share of the training after which "soft_start_annealing" falls."""
    min_lr_ratio: Share = 0.0
    """Lowest rate, as a share of the highest."""
    rewind_to: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """For retraining: the schedule starts at that share of it (Renda et al., "Comparing Rewinding and Fine-tuning in Neural
    Network Pruning", 2020, arXiv:2003.02389: learning-rate rewinding)."""

    @pydantic.model_validator(mode="after")
    def _annealing_fits(self) -> Self:
        if self.scheduler == "soft_start_annealing" and not (self.min_lr_ratio > 0 and self.soft_start <= self.annealing < 1):
            raise PydanticCustomError(
                "annealing",
                "scheduler soft_start_annealing: expected min_lr_ratio above 0, and soft_start at most annealing, below 1. "
                "Received: {ratio}, {start} and {end}",
                {"ratio": self.min_lr_ratio, "start": self.soft_start, "end": self.annealing},
            )
        return self

    @property
    def peak(self) -> float:
        """The highest rate, as it is where nothing is measured."""
        return 0.05 if self.learning_rate == "auto" else self.learning_rate


class EarlyStop(Settings):
    """A training that ends before its last epoch."""

    patience: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Epochs without a better validation accuracy after which the training stops; 0 never stops."""
    min_delta: NonNegative = 0.0
    """What counts as better."""


class Distill(Settings):
    """Knowledge distillation from an unpruned model: see `tlt_prune.training.Distillation`."""

    teacher: str = ""
    """The teacher's .keras file; empty for no distillation."""
    alpha: Share = 0.5
    """Weight of the teacher's answers; the labels have the rest."""
    temperature: Positive = 4.0
    """Softens the probabilities of both."""


class QatConfig(Settings):
    """Quantization-aware training: see `tlt_prune.quantization.quantization_aware`."""

    ranges: Literal["moving", "learned"] = "moving"
    """Of activations: "moving" follows the batches, "learned" is trained with the weights."""
    method: CalibrationMethod = "percentile"
    """How ranges follow from data at the beginning."""
    percentile: Percentile = 99.99
    """Of the values of an activation that lie in its range, for that method."""
    samples: Count = 500
    """Training pictures for that."""
    excluded_layers: tuple[str, ...] = ()
    """Names or patterns of layers that stay float."""


class Train(Settings):
    """Training. A pruned model is retrained by giving its path as `pretrained_model_path`."""

    pretrained_model_path: str = ""
    """Model to start from: a .keras file as a whole, or .hdf5/.h5 by layer name. Empty to start from random weights."""
    checkpoint_interval: Count = 1
    """Epochs between checkpoints, from which an interrupted training goes on."""
    batch_size_per_gpu: Batch = 64
    """Pictures in a batch."""
    num_epochs: Epochs = 100
    """Passes over the training split."""
    random_seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Of weights, order and augmentation."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a label's probability that is spread over all classes."""
    tensorboard: bool = True
    """Write curves for TensorBoard."""
    keep_best: bool = True
    """Also keep the model of the epoch that did best in validation, as best.keras."""
    qat: bool = False
    """Train the model of `pretrained_model_path` with quantization in the loop, as `qat_config` says."""
    reg_config: RegConfig = RegConfig()
    """Weight decay."""
    bn_config: BNConfig = BNConfig()
    """Batch normalization."""
    lr_config: LRConfig = LRConfig()
    """Learning rate."""
    optim_config: OptimConfig = OptimConfig()
    """Optimizer."""
    early_stop: EarlyStop = EarlyStop()
    """Stopping early."""
    distill: Distill = Distill()
    """Learning from a teacher."""
    qat_config: QatConfig = QatConfig()
    """Quantization-aware training."""
