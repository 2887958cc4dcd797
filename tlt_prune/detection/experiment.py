"""Settings that the message of a DetectNet_v2 spec describes: classes, grid, augmentation, targets, losses and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tlt_prune.detection.augmentation import Augmentation, Canvas
from tlt_prune.detection.average_precision import EvaluationBox, Mode
from tlt_prune.detection.clustering import ClusteringConfig
from tlt_prune.detection.geometry import Grid
from tlt_prune.detection.losses import OBJECTIVES, ObjectiveWeights, TargetClass
from tlt_prune.detection.masks import LabelFilter, LossMask
from tlt_prune.detection.targets import Ellipse, Rasterizer
from tlt_prune.errors import SpecError

if TYPE_CHECKING:
    from google.protobuf.message import Message


def class_names(spec: Message) -> tuple[str, ...]:
    """In the order of the network's channels."""
    return tuple(x.name for x in spec.cost_function_config.target_classes)


def mapping(spec: Message) -> dict[str, str]:
    """Class in the labels -> class of the network.

    Raises:
        SpecError: a class of the network comes from none in the labels.
    """
    classes = {key: value for key, value in spec.dataset_config.target_class_mapping.items() if value in class_names(spec)}
    missing = [name for name in class_names(spec) if name not in classes.values()]
    if missing:
        raise SpecError(
            f"cost_function_config.target_classes: '{missing[0]}' is the target of nothing in "
            f"dataset_config.target_class_mapping ({', '.join(sorted(set(spec.dataset_config.target_class_mapping.values())))})."
        )
    return classes


def grid(spec: Message, columns: int, rows: int) -> Grid:
    """Of a network with an output of that size."""
    size, bbox = spec.augmentation_config.preprocessing, spec.model_config.objective_set.bbox
    return Grid(size.output_image_width, size.output_image_height, columns, rows, bbox.scale, bbox.offset)


def canvas(spec: Message) -> Canvas:
    """Size, crop and scaling that pictures are brought to."""
    x = spec.augmentation_config.preprocessing
    crop = (x.crop_left, x.crop_top, x.crop_right, x.crop_bottom)
    return Canvas(x.output_image_width, x.output_image_height, crop, (x.scale_width, x.scale_height))


def check_canvas(spec: Message) -> None:
    """Raises SpecError where pictures are to be cropped or scaled by a factor: they are resized as a whole, boxes with them."""
    x, found = spec.augmentation_config.preprocessing, canvas(spec)
    whole = (0, 0, x.output_image_width, x.output_image_height)
    if (any(found.crop) and found.crop != whole) or any(scale not in (0.0, 1.0) for scale in found.scale):
        raise SpecError(
            "augmentation_config.preprocessing: pictures are resized as a whole to output_image_width x output_image_height; a "
            "crop or a scale is not applied here. Expected crop_left, crop_top, crop_right and crop_bottom of 0, or the whole "
            f"output, and scale_width and scale_height of 0. Received: crop {found.crop}, scale {found.scale}."
        )


def channels(spec: Message) -> int:
    """Of pictures."""
    return int(spec.augmentation_config.preprocessing.output_image_channel or 3)


def oriented(spec: Message, *, tao: bool = False) -> bool:
    """Whether pictures are turned as their EXIF entry says: not where the spec or the toolkit leaves them as they are."""
    return not (tao or spec.dataset_config.ignore_exif_orientation)


def augmentation(spec: Message, *, tao: bool = False) -> Augmentation:
    """Random changes of training pictures; with `tao`, as the toolkit computes them."""
    a = spec.augmentation_config
    names = [field for field in Augmentation.__dataclass_fields__ if field != "tao"]
    values = {
        name: getattr(part, name)
        for part in (a.spatial_augmentation, a.color_augmentation)
        for name in names
        if name in part.DESCRIPTOR.fields_by_name
    }
    return Augmentation(**values, tao=tao)


def rasterizer(spec: Message, of: Grid) -> Rasterizer:
    """Raises SpecError where a class has no entry in bbox_rasterizer_config."""
    config = spec.bbox_rasterizer_config
    ellipses = {}
    for name in class_names(spec):
        x = _entry(config.target_class_config, name, "bbox_rasterizer_config.target_class_config")
        ellipses[name] = Ellipse(x.cov_center_x, x.cov_center_y, x.cov_radius_x, x.cov_radius_y, x.bbox_min_radius)
    return Rasterizer(of, ellipses, config.deadzone_radius, loss_mask(spec))


def loss_mask(spec: Message) -> LossMask:
    """Raises SpecError where it names an objective that there is not."""
    config = spec.loss_mask_label_filter
    filters = []
    for x in config.objective_label_filter_configs:
        sizes, crop = x.label_filter.bbox_dimensions_label_filter, x.label_filter.bbox_crop_label_filter
        cropped = x.label_filter.HasField("bbox_crop_label_filter")
        filters.append(
            LabelFilter(
                tuple(x.label_filter.source_class_label_filter.source_class_names),
                (sizes.min_width, sizes.max_width or math.inf),
                (sizes.min_height, sizes.max_height or math.inf),
                (crop.crop_left, crop.crop_top, crop.crop_right, crop.crop_bottom) if cropped else None,
                tuple(x.target_class_names),
                tuple(x.objective_names) or OBJECTIVES,
            )
        )
    return LossMask(tuple(filters), config.mask_multiplier, config.preserve_ground_truth)


def target_classes(spec: Message) -> list[TargetClass]:
    """Classes of the network with their weights in the loss."""
    return [
        TargetClass(
            x.name,
            x.class_weight,
            x.coverage_foreground_weight,
            {y.name: y.initial_weight for y in x.objectives},
            {y.name: y.weight_target for y in x.objectives},
        )
        for x in spec.cost_function_config.target_classes
    ]


def objective_weights(spec: Message) -> ObjectiveWeights:
    """Weights of the objectives, fixed or balanced during training."""
    x = spec.cost_function_config
    limits = {"minimum": x.min_objective_weight, "maximum": x.max_objective_weight}
    return ObjectiveWeights(target_classes(spec), automatic=x.enable_autoweighting, **limits)


def clustering(spec: Message) -> dict[str, ClusteringConfig]:
    """Class name -> how its boxes are clustered; those of other messages have the toolkit's names too."""
    found = {}
    for name in class_names(spec):
        entry = _entry(spec.postprocessing_config.target_class_config, name, "postprocessing_config.target_class_config")
        found[name] = clustering_of(entry.clustering_config)
    return found


def clustering_of(config: Message) -> ClusteringConfig:
    """Of a message ClusteringConfig."""
    names = [name for name in ClusteringConfig.__dataclass_fields__ if name in config.DESCRIPTOR.fields_by_name]
    values = {name: getattr(config, name) for name in names}
    algorithm = config.DESCRIPTOR.fields_by_name["clustering_algorithm"].enum_type
    values["clustering_algorithm"] = algorithm.values_by_number[config.clustering_algorithm].name
    return ClusteringConfig(**values)


def evaluation_boxes(spec: Message) -> dict[str, EvaluationBox]:
    """Class -> box sizes and overlap that count in evaluation."""
    config = spec.evaluation_config
    found = {}
    for name in class_names(spec):
        box = _entry(config.evaluation_box_config, name, "evaluation_config.evaluation_box_config")
        overlaps = config.minimum_detection_ground_truth_overlap
        if name not in overlaps:
            raise SpecError(f"evaluation_config.minimum_detection_ground_truth_overlap: expected an entry for '{name}'.")
        limits = (box.minimum_height, box.maximum_height, box.minimum_width, box.maximum_width)
        found[name] = EvaluationBox(*limits, overlaps[name])
    return found


def average_precision_mode(spec: Message) -> Mode:
    """Way to compute average precision."""
    return "INTEGRATE" if spec.evaluation_config.average_precision_mode else "SAMPLE"


def _entry(entries: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in entries:
        raise SpecError(f"{where}: expected an entry for '{name}'. There are: {', '.join(sorted(entries)) or 'none'}.")
    return entries[name]
