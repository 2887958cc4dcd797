"""One training by several replicas: copies of the model on several GPUs or in several processes, each with a part of every batch.

Keras' `fit` does it, with three of its parts replaced for the time of the training: a step that weighs every picture of the whole
batch alike, however it is cut, and the building of losses and metrics, which fails in Keras 3.15 with several processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras

from tlt_prune.graph import all_layers
from tlt_prune.io import interrupt, workers

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import NDArray

# Between the seeds of two replicas: a prime.
_APART = 1_000_003

Beside = Callable[[Any, Any], tuple[Any, Any]]
"""(inputs, targets) -> the same, with what a teacher says beside the targets."""


def cut(batches: tf.data.Dataset) -> tf.distribute.DistributedDataset:
    """Batches `(x, y)` of the whole job, or a pipeline's `parts` of them, over and over, cut for the replicas: see `piece`."""
    import tensorflow as tf

    strategy = workers.strategy()
    assert strategy is not None

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def pieces(x: Any, y: Any, *rows: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.range(first, first + local).map(lambda replica: piece(x, y, replica, *rows))

        # Without an end, replicas need not ask each other at every step whether there is another one.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        every = batches.flat_map(tf.autograph.experimental.do_not_convert(pieces))
        return every.repeat().apply(endless).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(of_worker)


def piece(
    x: Any, y: Any, replica: tf.Tensor | int, begin: tf.Tensor | int = 0, size: tf.Tensor | None = None
) -> tuple[Any, Any, tf.Tensor, tf.Tensor]:
    """The part of a batch that a replica computes.

    A batch of fewer examples than replicas is computed by all of them as a whole, since none can do without an example.

    Args:
        x, y: inputs and targets of the batch, or of those of its examples that were read.
        replica: number of the replica.
        begin: number of the first of these examples in the batch.
        size: of the batch; None where they are all of it.

    Returns:
        (inputs, targets, share, counted): what its mean counts in the mean over the batch, float32; and `(n,)`: the examples that
        it has to report on in metrics. Over all replicas, shares sum to 1, and every example is counted once.
    """
    import tensorflow as tf

    total = workers.replicas()
    number = tf.cast(replica, tf.int32)
    size = tf.shape(keras.tree.flatten(x)[0])[0] if size is None else size
    low, high = number * size // total, (number + 1) * size // total
    few = size < total
    start, end = tf.where(few, 0, low), tf.where(few, size, high)
    share = tf.where(few, 1.0 / total, tf.cast((high - low) / size, tf.float32))
    numbers = tf.range(start, end)
    part_x, part_y = keras.tree.map_structure(lambda a: a[start - begin : end - begin], (x, y))
    return part_x, part_y, share, (numbers >= low) & (numbers < high)


@contextlib.contextmanager
def shared(model: keras.Model, batches: tf.data.Dataset, beside: Beside | None = None) -> Iterator[Termination]:
    """In the block, `fit` and `evaluate` of a compiled model take what `cut` makes; yields whether a worker was terminated.

    Args:
        model: made in `workers.scope()`.
        batches: `(x, y)` of the whole job.
        beside: what a teacher adds to the targets of a training.
    """
    steps = _Steps(model, batches, beside)
    model.train_step, model.test_step, model._maybe_symbolic_build = steps.train, steps.test, steps.build
    model.train_function = model.test_function = None
    try:
        with own_random_numbers():
            yield steps.termination
    finally:
        del model.train_step, model.test_step, model._maybe_symbolic_build
        model.train_function = model.test_function = None


@contextlib.contextmanager
def own_random_numbers() -> Iterator[None]:
    """In the block, dropout and its kin draw other numbers in each replica; Keras 3.15 would draw the same in all."""
    import tensorflow as tf

    drawn = keras.random.SeedGenerator.next

    def of_replica(self: Any, ordered: bool = True) -> Any:
        seed, context = drawn(self, ordered), tf.distribute.get_replica_context()
        if context is None:
            return seed
        number = tf.cast(context.replica_id_in_sync_group, seed.dtype)
        return seed + tf.stack([number * _APART, tf.zeros_like(number)])

    keras.random.SeedGenerator.next = of_replica
    try:
        yield
    finally:
        keras.random.SeedGenerator.next = drawn


class Termination:
    """Whether any worker of a training was terminated (SIGTERM).

    All learn it in the same step, so that they can keep together what each has a part of.
    """

    def __init__(self) -> None:
        import tensorflow as tf

        self._asked, self._told = tf.Variable(0.0), tf.Variable(0.0)

    def before_step(self) -> None:
        """Tells the others of a signal to this process, in the step that follows."""
        self._asked.assign(float(interrupt.is_terminated()))

    def in_step(self) -> None:
        """The part of a step, in each replica."""
        import tensorflow as tf

        self._told.assign(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, self._asked.read_value()))

    def after_step(self) -> bool:
        """Whether it has come to any worker before the last step; the same in all."""
        return bool(self._told.numpy())


class _Steps:
    """The steps of one replica."""

    def __init__(self, model: keras.Model, batches: tf.data.Dataset, beside: Beside | None) -> None:
        self._model, self._batches = model, batches
        self._beside: Beside = beside or (lambda x, y: (x, y))
        self.termination = Termination()

    def build(self, iterator: object = None, data_batch: object = None) -> None:
        """Keras' `_maybe_symbolic_build`: it makes metrics and the optimizer's variables before the first step."""
        import tensorflow as tf

        def example(spec: tf.TensorSpec) -> tf.Tensor:
            return tf.zeros([1, *spec.shape[1:]], spec.dtype)

        with workers.scope():
            batch = self._beside(*keras.tree.map_structure(example, self._batches.element_spec))
            self._model._symbolic_build(data_batch=batch)

    def train(self, data: tuple[Any, Any, tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        import tensorflow as tf

        model, (x, y, share, counted) = self._model, data
        self.termination.in_step()
        x, y = self._beside(x, y)
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            mean, penalty = self._losses(x, y, outputs, training=True)
            # The optimizer sums over replicas.
            loss = share * mean + penalty / workers.replicas()
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_weights)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
        return self._report(mean + penalty, x, y, outputs, counted)

    def test(self, data: tuple[Any, Any, tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        x, y, _, counted = data
        outputs = self._model(x, training=False)
        mean, penalty = self._losses(x, y, outputs, training=False)
        return self._report(mean + penalty, x, y, outputs, counted)

    def _losses(self, x: Any, y: Any, outputs: Any, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """(mean of the losses over the examples of this replica, penalties of the regularizers)."""
        import tensorflow as tf

        penalties = [tf.cast(loss, tf.float32) for loss in self._model.losses]
        penalty = tf.add_n(penalties) if penalties else tf.zeros(())
        # Keras divides both by the number of replicas.
        both = tf.cast(self._model.compute_loss(x, y, outputs, None, training=training), tf.float32) * workers.replicas()
        return both - penalty, penalty

    def _report(self, loss: tf.Tensor, x: Any, y: Any, outputs: Any, counted: tf.Tensor) -> dict[str, Any]:
        import tensorflow as tf

        examples = tf.reduce_sum(tf.cast(counted, tf.float32))
        for metric in self._model.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=examples)
        x, y, outputs = keras.tree.map_structure(lambda a: tf.boolean_mask(a, counted), (x, y, outputs))
        found = self._model.compute_metrics(x, y, outputs)
        # Keras reduces the values of several processes along an axis, which numbers do not have.
        return {name: value[None] if workers.count() > 1 else value for name, value in found.items()}


def train_on_batch(model: keras.Model, x: Any, y: Any) -> dict[str, float]:
    """One step with a batch of the whole job, in `shared`; returns the metrics since they were reset."""
    strategy = workers.strategy()
    assert strategy is not None
    local = workers.replicas() // workers.count()
    first = workers.index() * local
    pieces = [piece(x, y, first + i) for i in range(local)]
    leaves = [keras.tree.flatten(a) for a in pieces]

    def everywhere(number: int) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: leaves[context.replica_id_in_sync_group - first][number]
        )

    model._maybe_symbolic_build()
    model.make_train_function()
    model.train_function(iter([keras.tree.pack_sequence_as(pieces[0], [everywhere(i) for i in range(len(leaves[0]))])]))
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def batch_predictor(model: keras.Model) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Batch -> the model's only output, by all workers; Keras' own `predict_on_batch` would give each replica the whole batch."""
    if workers.replicas() == 1:
        return model.predict_on_batch  # type: ignore[no-any-return]
    from tlt_prune.onnx import keras_runner, spread

    run = spread(keras_runner(model))
    return lambda batch: run(batch)[0]


class Averaged(keras.callbacks.Callback):
    """Moving statistics, which every replica has from its part of the batches, become their means before they are used."""

    def __init__(self, termination: Termination) -> None:
        super().__init__()
        self._termination = termination

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self._termination.before_step()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if batch + 1 == self.params["steps"] or self._termination.after_step():
            average_statistics(self.model)


def average_statistics(model: keras.Model) -> None:
    """Averages all weights that are not trained over the replicas."""
    import tensorflow as tf

    strategy = workers.strategy()
    assert strategy is not None
    moving = [v for v in model.non_trainable_weights if tf.as_dtype(v.dtype).is_floating]
    if not moving:
        return

    # In one vector: every exchange between processes takes its time.
    def own() -> tf.Tensor:
        return tf.concat([tf.reshape(tf.cast(v.value, tf.float32), [-1]) for v in moving], axis=0)

    def mean() -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(own), axis=None)

    parts = tf.split(tf.function(mean, autograph=False)(), [int(tf.size(v.value)) for v in moving])
    for variable, part in zip(moving, parts, strict=True):
        variable.assign(tf.reshape(part, variable.shape))


def synchronize(model: keras.Model, wanted: bool) -> None:
    """Batch normalizations take their statistics from the whole batch, or each replica from its part."""
    for layer in all_layers(model):
        if hasattr(layer, "synchronized"):
            layer.synchronized = wanted
