"""What test_torch.py runs in a process of its own, on Keras' torch backend: FOLDER has model.keras, x.npy and y.npy.

Writes what each criterion keeps, and what pruned and compensated models answer, into FOLDER/torch.npz.
"""

import pathlib
import sys

import keras
import numpy as np

import tlt_prune
from tlt_prune import criteria

OPTIONS = {"macs": 0.5, "granularity": 1, "min_num_filters": 2}


def pruned_by(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> channels kept, or outputs."""
    results = {}
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    for name, criterion in {
        "Taylor": criteria.Taylor((x, y), loss),
        "Fisher": criteria.Fisher((x, y), loss),
        "Fisher, of one's own": criteria.Fisher((x, y), lambda a, b: keras.ops.square(a - b)),
        "Activation": criteria.Activation(x),
        "L2": "L2",
    }.items():
        plan = tlt_prune.plan_pruning(model, criterion=criterion, **OPTIONS)
        results[name] = np.concatenate([plan.kept[key] for key in sorted(plan.kept)])
    for name, compensation in {
        "LeastSquares": tlt_prune.LeastSquares(x, batch_size=16),
        "Bias": tlt_prune.Bias(x),
        "batch norm": tlt_prune.RecalibrateBatchNorm(x),
    }.items():
        pruned = tlt_prune.prune_model(model, compensation=compensation, verify=True, **OPTIONS)
        results[name] = pruned.predict(x, verbose=0)
    return results


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    assert keras.backend.backend() == "torch"
    original = keras.models.load_model(folder / "model.keras")
    data, labels = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    found = pruned_by(original, data, labels)
    pruned = tlt_prune.prune_model(original, **OPTIONS)
    pruned.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    before = pruned.evaluate(data, labels, verbose=0, return_dict=True)["loss"]
    tlt_prune.retrain(pruned, (data, labels), (data, labels), teacher=original, epochs=2, verbose=0)
    found["losses"] = np.array([before, pruned.evaluate(data, labels, verbose=0, return_dict=True)["loss"]])
    np.savez(folder / "torch.npz", **found)
