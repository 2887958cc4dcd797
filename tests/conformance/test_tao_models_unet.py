"""The recorded cases of UNet: label ids, pictures, losses with gradients, rates, metrics, augmentation.

Ours differ where `DEVIATIONS` says so; with `compatibility: tao` those of pictures and labels do not.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import tao_models
import tensorflow as tf
from PIL import Image

from tlt_prune import data, training
from tlt_prune.config.specs import Spec, spec_from_dict
from tlt_prune.data.mask_pipeline import Values, changed_alike
from tlt_prune.errors import DataError, SpecError
from tlt_prune.tasks.classification.pictures import picture_format
from tlt_prune.tasks.segmentation import Segmentation
from tlt_prune.tasks.segmentation.data import augmentation_of, load_part

# What the toolkit does, and what ours does.
DEVIATIONS = {
    "dice": "the toolkit's is that of each pixel over its classes; ours, of each class over pixels unless per_pixel is given",
    "0 / 0": "a saturated sigmoid over an empty mask is NaN in the toolkit; ours is 0",
    "no class": "an empty list of classes, or one class, is refused",
    "preprocess": "a word that the toolkit does not know leaves values at 0 to 255; here it is refused",
    "clipping": "with preprocess div_by_255, brightness leaves 0 to 1 in the toolkit; here it never does",
    "vanilla": "masks of vanilla_unet are mixed between classes when they are resized; here the nearest pixel counts",
    "BGR": "the toolkit's networks take blue first, ours red",
    "regularizers": "the toolkit adds them to this loss; here they are those of `train.reg_config`, for every task",
}


def cases(name: str) -> Any:
    found = tao_models.load(f"cases/{name}.json.gz")["cases"]
    return pytest.mark.parametrize("case", found, ids=[x["id"] for x in found])


@cases("unet_labels")
def test_tao_models_labels(case: dict[str, Any]) -> None:
    entries = case["classes_name_mapping_labelid"]
    targets = [{"name": name, "mapping_class": mapped, "label_id": value} for name, mapped, value in entries]
    expected = case["expected"]
    if "error" in expected or expected["num_train_ids"] < 2:
        with pytest.raises(DataError, match="target_classes"):
            data.mask_classes(targets)
        return
    found = data.mask_classes(targets)
    assert len(found.names) == expected["num_train_ids"]
    assert found.ids == {value: index for _, value, index in expected["classes"]}


@cases("unet_loss")
def test_tao_models_loss(case: dict[str, Any]) -> None:
    args, expected = case["args"], case["expected"]
    if "error" in expected:
        with pytest.raises(ValueError, match="cross_entropy, dice or cross_dice_sum"):
            training.SegmentationLoss(args["loss"])
        return
    one = args.get("activation") == "sigmoid"
    loss = training.SegmentationLoss(args["loss"], one_channel=one, channels_first=True, per_pixel=True)
    logits, labels = (tf.constant(np.asarray(case[x], np.float32)) for x in ("logits", "labels"))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(labels, logits)
    if expected["loss"] is None:
        assert np.isfinite(float(value))
        return
    weight, names = args.get("wd", 0.0), args.get("names", {})
    decayed = [np.asarray(v) for k, v in names.items() if not any(x in k for x in ("batch_normalization", "bias", "beta"))]
    penalty = {"L1": sum(np.abs(v).sum() for v in decayed), "L2": sum((v**2).sum() for v in decayed) / 2}.get(
        args.get("reg", ""), 0.0
    )
    assert float(value) + weight * penalty == pytest.approx(expected["loss"], rel=1e-5)
    np.testing.assert_allclose(np.asarray(tape.gradient(value, logits)), expected["gradient_wrt_logits"], atol=1e-5)


@cases("unet_metrics")
def test_tao_models_metrics(case: dict[str, Any]) -> None:
    one = case["activation"] == "sigmoid"
    logits, labels = (np.asarray(case[x]) for x in ("logits", "labels"))
    layout = data.MaskLayout(channels_first=True, outputs_first=True, one_channel=one, size=logits.shape[2:])
    said, true = data.classes_said(logits, layout), labels[:, 0].astype(int) if one else labels.argmax(1)
    count = 2 if one else case["num_classes"]
    each = [training.pixel_confusion(t, s, count) for t, s in zip(true, said, strict=True)]
    np.testing.assert_array_equal(each, case["expected"]["confusion_per_image"])
    scores = training.scores_of_pixels(np.sum(each, axis=0), [f"c{i}" for i in range(count)])
    expected = case["expected"]["metrics"]
    means = {"rec": "mean_recall", "prec": "mean_precision", "fmes": "mean_f1", "mean_iou_index": "mean_iou"}
    for theirs, ours in means.items():
        assert scores.means[ours] == pytest.approx(expected[theirs], rel=1e-5)
    columns = {"precision": "precision", "Recall": "recall", "F1 Score": "f1", "iou": "iou"}
    for name, row in expected["results_dic"].items():
        for theirs, ours in columns.items():
            wanted = np.nan if row[theirs] is None else row[theirs]
            assert scores.per_class.loc[name, ours] == pytest.approx(wanted, rel=1e-5, nan_ok=True)


def spec_of(folder: pathlib.Path, text: str, **more: Any) -> Spec:
    """The spec that a text of the toolkit is, with an epoch and what `more` says."""
    (folder / "spec.txt").write_text(
        f"{text} training_config {{epochs: 1}} dataset_config {{train_masks_path: '{folder}/masks'}}"
    )
    sections = Segmentation.sections_of_file(folder / "spec.txt")
    assert sections is not None
    return spec_from_dict({"task": "segmentation", **sections, **more}, "the case")


def paths_in(folder: pathlib.Path) -> str:
    """The keys of a text that name data."""
    return " ".join(f"{part}_{kind}_path: '{folder}/{kind}'" for part in ("train", "val") for kind in ("images", "masks"))


@cases("unet_augment")
def test_tao_models_augment(case: dict[str, Any], tmp_path: pathlib.Path) -> None:
    text = f"dataset_config {{augment: true {paths_in(tmp_path)} {case['augmentation']}}}"
    config = augmentation_of(Segmentation(spec_of(tmp_path, text, compatibility="tao")))
    assert config is not None
    assert config.delta == pytest.approx(case["delta_used"])
    draws = {**case["draws"], "brightness": case["brightness_fraction_of_delta"]}
    lowest, highest = {"min_max_-1_1": (-1.0, 1.0), "min_max_0_1": (0.0, 1.0)}.get(case["preprocess"], (-np.inf, np.inf))
    values = Values(lowest, highest, 1.0)
    x, y = changed_alike(tf.constant(case["x"], tf.float32), tf.constant(case["y"], tf.int32), config, draws, values)
    np.testing.assert_allclose(np.asarray(x), case["expected"]["x"], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(y), case["expected"]["y"])


@cases("unet_lr")
def test_tao_models_rates(case: dict[str, Any], tmp_path: pathlib.Path) -> None:
    config = spec_of(tmp_path, f"{case['spec']} training_config {{learning_rate: {case['base_lr']}}}").train.lr_config
    found = [training.learning_rate(config, step, 1000) for step in case["steps"]]
    np.testing.assert_allclose(found, case["expected"], rtol=1e-5, atol=1e-9)


@cases("unet_data")
def test_tao_models_data(case: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """By the toolkit's text, with `compatibility: tao`."""
    pictures = tao_models.load("cases/unet_pictures.json.gz")["pictures"]
    for kind, name in (("images", case["image"]), ("masks", case["mask"])):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.asarray(pictures[name], np.uint8)).save(tmp_path / kind / "a.png")
    classes = " ".join(
        f"target_classes {{name: '{name}' mapping_class: '{mapped}' label_id: {value}}}"
        for name, mapped, value in case.get("classes_name_mapping_labelid", [("a", "a", 0), ("b", "b", 1)])
    )
    text, top = f"{case['spec']} dataset_config {{{paths_in(tmp_path)} data_class_config {{{classes}}}}}", 1.0
    if "other" in text:
        with pytest.raises(SpecError, match=r"dataset_config\.preprocess: expected one of"):
            spec_of(tmp_path, text)
        text, top = text.replace("other", "div_by_255"), 255.0
    task = Segmentation(spec_of(tmp_path, text, compatibility="tao"))
    form = picture_format(task.spec)
    expected, one = case["expected"], case["activation"] == "sigmoid"
    layout = data.MaskLayout(channels_first=True, outputs_first=True, one_channel=one, size=tuple(expected["labels_shape"][1:]))
    split = load_part(task, "train", form, layout)
    ((x, y),) = data.mask_evaluation_pipeline(split, task.spec.dataset, layout, 1).batches
    features, labels = top * np.asarray(x)[0][::-1], np.asarray(y)[0]
    assert list(features.shape) == expected["features_shape"]
    assert list(labels.shape) == expected["labels_shape"]
    if expected["features"] is None:
        assert features.mean() == pytest.approx(expected["mean"], abs=1e-5)
        assert [labels.sum(axis=0).min(), labels.sum(axis=0).max()] == expected["label_sum_per_pixel_min_max"]
        return
    np.testing.assert_allclose(features, expected["features"], atol=2e-5 * top)
    found = labels[0] if one else labels.argmax(axis=0)
    np.testing.assert_array_equal(found, expected["labels_argmax"])
