"""DetectNet_v2 around its network: targets, losses, decoding, clustering of boxes, average precision.

What the toolkit does is written down, with the places where this room differs, in the guide to detection (docs); `compatibility`
arguments take "tao" for the toolkit's own result.
"""

from typing import TYPE_CHECKING

from tlt_prune.faces import lazy_face

if TYPE_CHECKING:
    from tlt_prune.detection.clustering import boxes_of
    from tlt_prune.detection.coco import coco_scores
    from tlt_prune.detection.converting import ConvertedBoxes, convert_kitti
    from tlt_prune.detection.decoded import with_decoding
    from tlt_prune.detection.decoding import to_picture
    from tlt_prune.detection.drawing import annotated
    from tlt_prune.detection.evaluation import (
        Evaluation,
        Outputs,
        Postprocessing,
        as_input,
        evaluate_detector,
        output_layout,
        outputs_of,
        scored,
    )
    from tlt_prune.detection.kitti import label_line
    from tlt_prune.detection.reading import fitted
    from tlt_prune.detection.schedules import EarlyStoppingAnnealing, soft_start_annealing
    from tlt_prune.detection.splits import held_out_files, read_splits
    from tlt_prune.detection.targets import Rasterizer
    from tlt_prune.detection.training import AutoWeighting, objective

__all__ = [
    "AutoWeighting",
    "ConvertedBoxes",
    "EarlyStoppingAnnealing",
    "Evaluation",
    "Outputs",
    "Postprocessing",
    "Rasterizer",
    "annotated",
    "as_input",
    "boxes_of",
    "coco_scores",
    "convert_kitti",
    "evaluate_detector",
    "fitted",
    "held_out_files",
    "label_line",
    "objective",
    "output_layout",
    "outputs_of",
    "read_splits",
    "scored",
    "soft_start_annealing",
    "to_picture",
    "with_decoding",
]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "clustering": ("boxes_of",),
        "coco": ("coco_scores",),
        "converting": ("ConvertedBoxes", "convert_kitti"),
        "decoded": ("with_decoding",),
        "decoding": ("to_picture",),
        "drawing": ("annotated",),
        "evaluation": (
            "Evaluation",
            "Outputs",
            "Postprocessing",
            "as_input",
            "evaluate_detector",
            "output_layout",
            "outputs_of",
            "scored",
        ),
        "kitti": ("label_line",),
        "reading": ("fitted",),
        "schedules": ("EarlyStoppingAnnealing", "soft_start_annealing"),
        "splits": ("held_out_files", "read_splits"),
        "targets": ("Rasterizer",),
        "training": ("AutoWeighting", "objective"),
    },
)
