"""Pictures with labels: folders, .npz files and named sets, as `tf.data` pipelines."""

from tlt_prune.data.folders import picture_batches, pictures_of
from tlt_prune.data.formats import PictureFormat
from tlt_prune.data.pictures import list_pictures, picture_files
from tlt_prune.data.pipeline import Pipeline, evaluation_pipeline, training_pipeline
from tlt_prune.data.sources import load_splits, load_test_split
from tlt_prune.data.splits import Split, matched, missing_classes, shared_pictures

__all__ = [
    "PictureFormat",
    "Pipeline",
    "Split",
    "evaluation_pipeline",
    "list_pictures",
    "load_splits",
    "load_test_split",
    "matched",
    "missing_classes",
    "picture_batches",
    "picture_files",
    "pictures_of",
    "shared_pictures",
    "training_pipeline",
]
