"""The recorded cases of UNet: label ids, losses with gradients, metrics, augmentation. Ours differ where `DEVIATIONS` says so."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tao_models
import tensorflow as tf

from tlt_prune import data, training
from tlt_prune.data.mask_pipeline import Values, changed_alike
from tlt_prune.errors import DataError

# What the toolkit does, and what ours does.
DEVIATIONS = {
    "dice": "the toolkit's is that of each pixel over its classes; ours, of each class over pixels unless per_pixel is given",
    "0 / 0": "a saturated sigmoid over an empty mask is NaN in the toolkit; ours is 0",
    "no class": "an empty list of classes, or one class, is refused",
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
    layout = data.MaskLayout(channels_first=True, one_channel=one, size=logits.shape[2:])
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


@cases("unet_augment")
def test_tao_models_augment(case: dict[str, Any]) -> None:
    ratio = re.search(r"crop_and_resize_ratio:([\d.]+)", case["augmentation"])
    # Without a ratio in the spec, the crop does nothing in the toolkit; ours is .1 then.
    config = data.MaskAugmentation(crop_and_resize_ratio=float(ratio[1]) if ratio else 0.0, delta=case["delta_used"])
    draws = {**case["draws"], "brightness": case["brightness_fraction_of_delta"]}
    values = Values(-1.0 if "-1" in case["preprocess"] else 0.0, 1.0, 1.0)
    x, y = changed_alike(tf.constant(case["x"], tf.float32), tf.constant(case["y"], tf.int32), config, draws, values)
    np.testing.assert_allclose(np.asarray(x), case["expected"]["x"], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(y), case["expected"]["y"])
