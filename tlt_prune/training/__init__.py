"""Training and evaluation: regularizers, schedules, the loop that survives being killed, and scores."""

from tlt_prune.training.distillation import Distillation, LabelAccuracy, with_teacher
from tlt_prune.training.evaluation import ClassificationScores, score
from tlt_prune.training.job import TrainingJob, TrainResult
from tlt_prune.training.loop import train
from tlt_prune.training.multitask import multitask_classification
from tlt_prune.training.narrow_shortcuts import subsampled_first
from tlt_prune.training.objective import Objective, Rows, classification
from tlt_prune.training.pixel_scores import PixelScores, pixel_confusion, scores_of_pixels
from tlt_prune.training.rate_test import RateTest, find_peak_rate
from tlt_prune.training.regularizers import GroupLasso, regularizer, set_regularizers
from tlt_prune.training.retrain_callbacks import KeepBest, WarmUpCosine
from tlt_prune.training.retraining import RetrainHistory, retrain
from tlt_prune.training.saving import save_model
from tlt_prune.training.schedules import learning_rate, rate_between, soft_start_annealing
from tlt_prune.training.segmentation import SegmentationLoss, segmentation_objective
from tlt_prune.training.student import Student

__all__ = [
    "ClassificationScores",
    "Distillation",
    "GroupLasso",
    "KeepBest",
    "LabelAccuracy",
    "Objective",
    "PixelScores",
    "RateTest",
    "RetrainHistory",
    "Rows",
    "SegmentationLoss",
    "Student",
    "TrainResult",
    "TrainingJob",
    "WarmUpCosine",
    "classification",
    "find_peak_rate",
    "learning_rate",
    "multitask_classification",
    "pixel_confusion",
    "rate_between",
    "regularizer",
    "retrain",
    "save_model",
    "score",
    "scores_of_pixels",
    "segmentation_objective",
    "set_regularizers",
    "soft_start_annealing",
    "subsampled_first",
    "train",
    "with_teacher",
]
