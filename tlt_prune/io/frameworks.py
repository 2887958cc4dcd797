"""Import of TensorFlow and Keras without TensorFlow's start-up messages; all other messages pass.

TensorFlow writes to the process's standard error from C++ while it is imported, whatever the log level.
So the import runs with that stream redirected to a file, and the lines that are not known chatter
are written out afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator

from tlt_prune.errors import MissingPackageError, SpecError, WorkersError, first_line
from tlt_prune.io import interrupt, workers

_CHATTER = re.compile(
    rb"^(WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|[IW]\d{4} [\d:.]+\s+\d+ .*(oneDNN|cuda|CUDA|cpu_feature_guard|TensorRT|cudart_stub|cuda_executor|port\.cc).*"
    rb"|E\d{4} .* failed call to cuInit: .*\(303\)"  # no driver installed: there is no GPU
    rb"|To enable the following instructions: .*)\s*$"
)

# TensorFlow and Keras import these where they are installed, for functions that no script calls. It takes a second.
_NOT_NEEDED = ("IPython", "jax", "matplotlib", "sklearn")


@contextlib.contextmanager
def _as_if_missing(names: Iterable[str]) -> Iterator[None]:
    """Inside, the import of a package fails that is not imported yet; afterwards it works."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: importing it fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def import_frameworks() -> None:
    """Imports TensorFlow and Keras; anything but their chatter still reaches standard error."""
    # What goes wrong between workers comes as an exception, too; TensorFlow tells it in dozens of lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if workers.count() == 1 else "3")
    # TensorFlow has channels-first convolutions on a CPU by oneDNN alone, which it turns on by itself for newer CPUs only.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if os.environ["KERAS_BACKEND"] not in ("tensorflow", "jax"):
        backend = os.environ["KERAS_BACKEND"]
        raise SpecError(f"KERAS_BACKEND={backend}: expected tensorflow or jax. Unset it, or set one of these.")
    sys.stderr.flush()
    saved = os.dup(2)
    interrupt.errors = saved
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            with _as_if_missing(name for name in _NOT_NEEDED if name != os.environ["KERAS_BACKEND"]):
                import keras  # noqa: F401
                import tensorflow as tf

            workers.join()
            # The first operation initializes the device layer, which talks too.
            tf.constant(0)
        except WorkersError:
            raise
        # Whatever is missing or broken in an installation.
        except Exception as error:
            raise MissingPackageError(
                f"TensorFlow and Keras cannot be imported: {first_line(error, 200)}. Install the package again, with its "
                "requirements."
            ) from error
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            interrupt.errors = 2
            os.close(saved)
            captured.seek(0)
            for line in captured:
                if not _CHATTER.match(line):
                    os.write(2, line)
    tf.get_logger().addFilter(lambda record: "triggered tf.function retracing" not in record.getMessage())
    # Raised inside libraries about themselves; a user can do nothing about them.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(tf2onnx|onnx|tensorflow)\b")
