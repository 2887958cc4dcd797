"""Pictures with labels: folders, .npz files and named sets, as `tf.data` pipelines."""

from tlt_prune.data.pipeline import Pipeline, evaluation_pipeline, training_pipeline
from tlt_prune.data.sources import PictureFormat, Split, load_splits, load_test_split, picture_split

__all__ = [
    "PictureFormat",
    "Pipeline",
    "Split",
    "evaluation_pipeline",
    "load_splits",
    "load_test_split",
    "picture_split",
    "training_pipeline",
]
