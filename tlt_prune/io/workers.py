"""The processes that share one job, on one machine or several: TensorFlow's own strategies, from what the environment says.

A script calls `expect` with its flags, before TensorFlow is imported; `import_frameworks` calls `join`, since processes can only
find each other before the first operation of TensorFlow. Every process then does the same steps in the same order; worker 0, the
chief, is the one that prints and whose files stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tlt_prune.errors import TrainingError, WorkersError, first_line
from tlt_prune.io import interrupt

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import NDArray

T = TypeVar("T")
_PATIENCE = 300
"""Seconds to wait for workers that have not started yet, unless TLT_PRUNE_WORKER_TIMEOUT says otherwise."""
_HEARTBEAT = 20
"""Seconds without a sign of life after which a worker counts as gone."""
# What TensorFlow says in every worker when one is gone.
_GONE = ("collective ops is aborted", "stopped sending heartbeats", "coordination", "connection reset by peer", "socket closed")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a job.

    Attributes:
        count: how many there are.
        index: number of this one, from 0.
        source: what said so, for messages.
        addresses: gives "host:port" of every worker, in their order.
    """

    count: int
    index: int
    source: str
    addresses: Callable[[], Sequence[str]]


@dataclasses.dataclass
class _State:
    cluster: Cluster | None = None
    gpus: int = 1
    strategy: Any = None
    begun: int | None = None


_state = _State()


def expect(gpus: int | None, environment: Mapping[str, str] = os.environ, *, shared: bool = True) -> None:
    """Reads how many processes and GPUs the job has; nothing is connected yet.

    Args:
        gpus: GPUs of this machine to train on; None for one, or for all that a worker of several has.
        environment: TF_CONFIG, or SLURM's variables.
        shared: whether they share the work; else the chief does it alone.

    Raises:
        WorkersError: the environment describes no job that can be joined.
    """
    if gpus is not None and gpus < 1:
        raise WorkersError(f"--gpus: expected 1 or more. Received: {gpus}.")
    found = of_tf_config(environment) or of_slurm(environment)
    if found is not None and gpus is not None and gpus > 1:
        raise WorkersError(
            f"--gpus {gpus}: expected no number of GPUs where {found.source} describes several workers. Each takes those that it "
            "sees; choose them by CUDA_VISIBLE_DEVICES."
        )
    if not shared and found is not None and found.index == 0:
        found = None
    _state.cluster, _state.gpus = found, gpus or 1


def index() -> int:
    """Number of this process among those of the job."""
    return _state.cluster.index if _state.cluster is not None else 0


def count() -> int:
    """Number of processes of the job."""
    return _state.cluster.count if _state.cluster is not None else 1


def is_chief() -> bool:
    """Whether this process prints and writes."""
    return index() == 0


def strategy() -> tf.distribute.Strategy | None:
    """TensorFlow's strategy of a job with several processes or GPUs that was joined; None for one."""
    return _state.strategy


def replicas() -> int:
    """Copies of the model that train together, over all processes."""
    return int(_state.strategy.num_replicas_in_sync) if _state.strategy is not None else 1


def rows(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(first, end) of the examples of a batch that the replicas of this process compute: see `training.replicas.piece`."""
    import tensorflow as tf

    total, local = replicas(), replicas() // count()
    first, few = index() * local, size < total
    return tf.where(few, 0, first * size // total), tf.where(few, size, (first + local) * size // total)


def batch_size(each: int) -> int:
    """Examples in a batch of all replicas, where each has `each` of them.

    A training that goes on with another number of replicas keeps the batches that it began with: see `went_on`.
    """
    return each * (_state.begun or replicas())


def went_on(begun: int | None) -> None:
    """A training of `begun` replicas goes on in this job; None where one begins."""
    _state.begun = begun


def scope() -> contextlib.AbstractContextManager[object]:
    """Models that are made in the block can be trained by all replicas."""
    return contextlib.nullcontext() if _state.strategy is None else _state.strategy.scope()


def join() -> None:
    """Connects to the other processes; must come before the first operation of TensorFlow.

    Raises:
        WorkersError: there are too few GPUs, or some workers do not answer.
    """
    if _state.strategy is not None:
        return
    if _state.cluster is not None:
        _state.strategy = _connected(_state.cluster)
    elif _state.gpus > 1:
        _state.strategy = _on_gpus(_state.gpus)


def _on_gpus(wanted: int) -> tf.distribute.Strategy:
    import tensorflow as tf

    found = len(tf.config.list_physical_devices("GPU"))
    if found < wanted:
        raise WorkersError(f"--gpus {wanted}: expected {wanted} GPUs. TensorFlow finds {found}. Lower the number.")
    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(wanted)])


def _connected(cluster: Cluster) -> tf.distribute.Strategy:
    import tensorflow as tf
    from tensorflow.python.eager import context

    from tlt_prune.io import rendezvous

    addresses = list(cluster.addresses())
    rendezvous.meet(addresses, cluster.index, _patience(), cluster.source)
    # TensorFlow's own defaults wait for an hour; it takes over what is configured before. A test holds this private name.
    context.context().configure_coordination_service(
        "standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=1000 * _PATIENCE,
        heartbeat_timeout_in_ms=1000 * _HEARTBEAT,
        coordinated_jobs=[_coordinated(len(addresses))],
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}), task_type="worker", task_id=cluster.index, rpc_layer="grpc"
    )
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except (tf.errors.OpError, RuntimeError) as error:
        place = f"Worker {cluster.index} of {cluster.count} ({addresses[cluster.index]})"
        raise WorkersError(f"{place} cannot join the others: {first_line(error, 160)}.") from error
    # TensorFlow has put a handler of its own in the place of ours.
    interrupt.renew()
    return strategy


def _coordinated(workers: int) -> Any:
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2

    return coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=workers)


def _patience() -> int:
    text = os.environ.get("TLT_PRUNE_WORKER_TIMEOUT", "")
    if text and not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise WorkersError(f"TLT_PRUNE_WORKER_TIMEOUT: expected a number of seconds. Received: {text!r}.")
    return int(text or _PATIENCE)


def of_tf_config(environment: Mapping[str, str]) -> Cluster | None:
    """The job that TF_CONFIG describes: `{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}`.

    A "chief" comes before the workers. None for one process alone.

    Raises:
        WorkersError: it is not such a description.
    """
    text = environment.get("TF_CONFIG", "")
    if not text:
        return None
    try:
        found = json.loads(text)
        cluster, task = found.get("cluster", {}), found.get("task", {})
        jobs = {str(job): [str(x) for x in addresses] for job, addresses in cluster.items()}
        kind, number = str(task.get("type", "worker")), int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _no_tf_config(f"it cannot be read: {first_line(error, 100)}") from error
    strange = sorted(set(jobs) - {"chief", "worker"})
    if strange:
        raise _no_tf_config(f"it has the job {strange[0]!r}; expected only workers, and a chief")
    order = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, ())))]
    addresses = tuple(jobs[job][i] for job, i in order)
    if len(addresses) < 2:
        return None
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
            raise _no_tf_config(f"expected host:port for each worker, received {address!r}")
    if len(set(addresses)) < len(addresses):
        raise _no_tf_config("two workers have the same address")
    if (kind, number) not in order:
        raise _no_tf_config(f"this process is {kind} {number}, which is not in the cluster")
    return Cluster(len(addresses), order.index((kind, number)), "TF_CONFIG", lambda: addresses)


def _no_tf_config(reason: str) -> WorkersError:
    return WorkersError(
        f"TF_CONFIG: {reason}. Expected JSON such as "
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}; unset it to run alone.'
    )


def of_slurm(environment: Mapping[str, str]) -> Cluster | None:
    """The job step that `srun` started, by TensorFlow's resolver; None outside of one, or for one task alone.

    Raises:
        WorkersError: SLURM's variables do not describe its tasks.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if "SLURM_PROCID" not in environment or not tasks.isdigit() or int(tasks) < 2:
        return None
    place = environment["SLURM_PROCID"]
    if not place.isdigit() or int(place) >= int(tasks):
        raise WorkersError(f"SLURM_PROCID: expected the number of one of {tasks} tasks, from 0. Received: {place!r}.")
    return Cluster(int(tasks), int(place), "SLURM", _slurm_addresses)


def _slurm_addresses() -> Sequence[str]:
    import tensorflow as tf

    gpus = len([x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip().isdigit()])
    # Without GPUs, TensorFlow's resolver counts them in steps of none.
    counts = {} if gpus else {"gpus_per_node": 2**10, "gpus_per_task": 1, "auto_set_gpu": False}
    try:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(**counts)
        return list(resolver.cluster_spec().as_dict()["worker"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WorkersError(
            f"SLURM: its variables do not describe the tasks of this step: {first_line(error, 100)}. Expected those that srun "
            "sets: SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE, SLURM_STEP_NUM_TASKS and SLURM_PROCID."
        ) from error


def gather(rows: NDArray[Any]) -> NDArray[Any]:
    """The rows that every worker has, one after the other in the workers' order; all must call it."""
    if _state.cluster is None:
        return rows
    import tensorflow as tf

    local = replicas() // count()

    def each(own: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        # Of a worker with several GPUs, the first one speaks.
        speaks = replica.replica_id_in_sync_group % local == 0
        return replica.all_gather(own[: tf.where(speaks, tf.shape(own)[0], 0)], axis=0)

    def everywhere(own: tf.Tensor) -> tf.Tensor:
        return _state.strategy.run(each, args=(own,))

    found = tf.function(everywhere, autograph=False)(tf.constant(rows))
    return np.asarray(_state.strategy.experimental_local_results(found)[0])


def mine(parts: Iterable[T]) -> list[T]:
    """Of parts of a work, in the same order in every worker, those that this one does."""
    return [x for i, x in enumerate(parts) if i % count() == index()]


def total(values: NDArray[Any]) -> NDArray[Any]:
    """The sum over workers of what each has; all must call it."""
    return values if _state.cluster is None else np.asarray(gather(values[None]).sum(axis=0))


def wait_for_all() -> None:
    """Returns when every worker has come here."""
    if _state.cluster is not None:
        gather(np.zeros(1, np.int32))


def agree(what: str, value: str) -> None:
    """Compares a value between workers; all must call it.

    Raises:
        TrainingError: it differs; the message names `what`.
    """
    if _state.cluster is None:
        return
    found = gather(np.array([zlib.crc32(value.encode())], np.int64))
    others = [i for i, x in enumerate(found) if x != found[0]]
    if others:
        raise TrainingError(
            f"The workers of this job differ in {what}: worker {others[0]} has another than worker 0. Expected the same command, "
            "the same data and one results folder that all of them reach."
        )


@contextlib.contextmanager
def first_the_chief() -> Iterator[None]:
    """The chief does the block before all others begin it."""
    if not is_chief():
        wait_for_all()
    yield
    if is_chief():
        wait_for_all()


def lost(error: BaseException) -> str | None:
    """The one line where an error says that another worker is gone; None for other errors."""
    text = str(error).lower()
    if _state.cluster is None or not any(hint in text for hint in _GONE):
        return None
    return (
        f"another of the {count()} workers has ended or cannot be reached any more; see what it said. Run the same command again "
        "on every machine, or on fewer: it goes on from the last checkpoint."
    )
