"""Pictures with labels: folders, .npz files and named sets, as `tf.data` pipelines."""

from tlt_prune.data.changes import Rows
from tlt_prune.data.conversion import Conversion
from tlt_prune.data.converting import Converted, convert_folders
from tlt_prune.data.folders import picture_batches, pictures_of
from tlt_prune.data.formats import PictureFormat
from tlt_prune.data.mask_fitting import MaskFitting
from tlt_prune.data.mask_pipeline import (
    MaskAugmentation,
    MaskLayout,
    classes_said,
    mask_evaluation_pipeline,
    mask_training_pipeline,
    scores_said,
)
from tlt_prune.data.masks import MaskClasses, MaskSplit, listed_pictures, load_masks, mask_classes
from tlt_prune.data.pictures import SUFFIXES, by_name, files_below, named_pictures, open_picture, picture_files, picture_name
from tlt_prune.data.pipeline import (
    BatchOrder,
    Pipeline,
    epochs_of,
    evaluation_pipeline,
    picture_key,
    preprocess,
    training_pipeline,
    unconverted,
)
from tlt_prune.data.record_files import example_of, spans
from tlt_prune.data.sources import load_splits, load_test_split
from tlt_prune.data.splits import Split, matched, missing_classes, shared_images, shared_pictures
from tlt_prune.data.stored import Stored
from tlt_prune.data.tables import MultitaskSplit, checked_size, class_titles, label_counts, load_table

__all__ = [
    "SUFFIXES",
    "BatchOrder",
    "Conversion",
    "Converted",
    "MaskAugmentation",
    "MaskClasses",
    "MaskFitting",
    "MaskLayout",
    "MaskSplit",
    "MultitaskSplit",
    "PictureFormat",
    "Pipeline",
    "Rows",
    "Split",
    "Stored",
    "by_name",
    "checked_size",
    "class_titles",
    "classes_said",
    "convert_folders",
    "epochs_of",
    "evaluation_pipeline",
    "example_of",
    "files_below",
    "label_counts",
    "listed_pictures",
    "load_masks",
    "load_splits",
    "load_table",
    "load_test_split",
    "mask_classes",
    "mask_evaluation_pipeline",
    "mask_training_pipeline",
    "matched",
    "missing_classes",
    "named_pictures",
    "open_picture",
    "picture_batches",
    "picture_files",
    "picture_key",
    "picture_name",
    "pictures_of",
    "preprocess",
    "scores_said",
    "shared_images",
    "shared_pictures",
    "spans",
    "training_pipeline",
    "unconverted",
]
