"""The metric itself, measured with each channel switched off."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from keras import tree

from tlt_prune.config import CRITERIA
from tlt_prune.errors import PlanError
from tlt_prune.graph import Labels
from tlt_prune.io import checksums, progress, workers
from tlt_prune.pruning.criteria.network import FilterScores, Network
from tlt_prune.pruning.criteria.norms import L2
from tlt_prune.pruning.rewrite.block_law import scores_without
from tlt_prune.pruning.running.batches import Batches, TakesData, UserData
from tlt_prune.pruning.running.result_file import ResultFile
from tlt_prune.pruning.running.switched_off import Metric, consumers, metric_of, metric_of_outputs, metrics_without


@CRITERIA.register("Ablation", needs="metric", by_script={"chunk": 8})
class Ablation(TakesData):
    """Loss of the metric without a channel: the whole model's metric minus that with the channel's consumers given zero.

    Mozer and Smolensky, "Skeletonization", NIPS 1988, measure it so; everything else estimates it. It takes one evaluation per
    channel or, with `chunk`, one for each run of channels of neighboring norms. A channel that is read inside one layer (a head
    of attention) is not scored.

    Args:
        data: `(x, y)`: arrays, a `tf.data.Dataset`, a `PyDataset` or batches.
        metric: "accuracy"; a Keras loss, by name or not, or metric; or a function `(labels, outputs) -> number`, the higher
            the better.
        chunk: channels switched off together; they share what the metric loses. The granularity is a good choice.
        cache: a file of JSON lines that results are appended to as they come: another run of the same model and data goes on
            from there.
        steps: batches to read; None for all.
        batch_size: of arrays.

    Attributes:
        used: after a call: how much data it was.
    """

    comparable = True

    def __init__(
        self,
        data: UserData,
        metric: str | Metric = "accuracy",
        *,
        chunk: int = 1,
        cache: str | pathlib.Path | None = None,
        steps: int | None = None,
        batch_size: int = 64,
    ) -> None:
        if not chunk >= 1:
            raise PlanError(f"criterion Ablation: expected chunk >= 1. Received: {chunk}.")
        super().__init__(data, steps, batch_size)
        self._metric, self._chunk = metric_of(metric), chunk
        self._cache = pathlib.Path(cache) if cache is not None else None

    def __call__(self, network: Network) -> dict[str, FilterScores]:
        channels = network.channels
        batches = self._read(channels.graph, "criterion Ablation", labeled=True)
        sets = [np.zeros(0, np.int64), *_chunks(network, self._chunk)]
        keys = [",".join(map(str, x.tolist())) for x in sets]
        results = ResultFile(
            self._cache,
            self._identity(network, batches),
            what="criterion Ablation",
            of="an ablation",
            names=("chunk", "metric"),
            depends="model, other data or another metric",
        )
        metrics = results.begin()
        # Of several workers, each measures some of the sets. What one knows from a file, all do: it is of one folder.
        missing = [i for i in workers.mine(range(len(keys))) if keys[i] not in metrics]

        with progress(len(missing), f"Ablation of {len(sets) - 1} chunks on {self.used}") as advance:

            def done(i: int, value: float) -> None:
                metrics[keys[missing[i]]] = value
                results.append(keys[missing[i]], value)
                advance()

            metrics_without(channels, [sets[i] for i in missing], batches, self._metric[1], done)
        self._share(keys, metrics, results)
        whole = metrics[""]
        scores = np.full(channels.n_labels, np.nan)
        for bundles, key in zip(sets[1:], keys[1:], strict=True):
            scores[bundles] = (whole - metrics[key]) / len(bundles)
        return network.of_bundles(scores)

    def lost_without_blocks(self, network: Network, sets: Sequence[Sequence[str]]) -> list[float]:
        """What the metric loses without each set of residual blocks, by their names."""
        graph = network.channels.graph
        batches = self._read(graph, "criterion Ablation", labeled=True)
        metric = self._metric[1]
        what = f"Ablation of blocks on {self.used}"
        whole, without = scores_without(
            graph, sets, batches, lambda outputs: metric_of_outputs(graph, batches, outputs, metric), what
        )
        return [whole - x for x in without]

    @staticmethod
    def _share(keys: Sequence[str], metrics: dict[str, float], results: ResultFile) -> None:
        """What other workers measured."""
        if workers.count() == 1:
            return
        found = workers.gather(np.array([[metrics.get(key, np.nan) for key in keys]]))
        for key, values in zip(keys, found.T, strict=True):
            if key not in metrics:
                metrics[key] = float(values[np.isfinite(values)][0])
                results.append(key, metrics[key])

    def _identity(self, network: Network, batches: Batches) -> str:
        """Checksum of all that results depend on: weights, examples and metric."""
        weights = [
            weight
            for layer in network.channels.graph.walk()
            if layer.inner is None and hasattr(layer.op, "weights")
            for weight in network.weights(layer.op)
        ]
        return f"{self._metric[0]} {checksums.of_arrays([*weights, *tree.flatten(list(batches))]):08x}"


def _chunks(network: Network, size: int) -> list[Labels]:
    """Bundles that are switched off together: those that the same layers make, in runs of `size` by their largest norm."""
    channels = network.channels
    root, seen = channels.bundles.root, consumers(channels).visible
    norms = L2()(network)
    strength = np.zeros(channels.n_labels)
    for layer in network.layers:
        bundles = root[layer.labels]
        np.maximum.at(strength, bundles, norms[layer.name] / max(float(norms[layer.name].max(initial=0.0)), 1e-30))
    # What cannot be switched off is not scored.
    _, groups = channels.grouped(network.removable & seen)
    weakest_first = [members[np.argsort(-strength[members], kind="stable")][::-1] for members in groups]
    return [members[at : at + size] for members in weakest_first for at in range(0, len(members), size)]
