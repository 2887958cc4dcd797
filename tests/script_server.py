"""Runs scripts in forks of a process that has imported what takes seconds to import: see scripts.py.

A request is a line of JSON on standard input; the answer a line with the exit code on standard output.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback

import keras  # noqa: F401
import matplotlib.pyplot as plt  # noqa: F401
import onnxruntime  # noqa: F401
import onnxslim  # noqa: F401
import pandas as pd  # noqa: F401
import sklearn.datasets  # noqa: F401
import tensorflow as tf  # noqa: F401
import tensorflow_model_optimization as tfmot  # noqa: F401
import tf2onnx  # noqa: F401
import tf_keras  # noqa: F401

from tlt_prune.io.frameworks import import_frameworks
from tlt_prune.onnx import predictor

# No test asserts on a latency, which is measured for a second.
predictor._SECONDS = 0


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            code = child(**request)
            sys.stdout.flush()
            sys.stderr.flush()
            # Without the ends of libraries: threads that they wait for were not forked.
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def child(name: str, arguments: list[str], cwd: str, packages: str, out: str, err: str) -> int:
    """What `python -m tlt_prune.cli.NAME` does, with its streams in files."""
    for stream, path in enumerate((os.devnull, out, err)):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, stream)
        os.close(handle)
    os.chdir(cwd)
    sys.path += [packages] if packages else []
    sys.argv = [name, *arguments]
    # What TensorFlow says of itself, which it says once it finds itself imported and absl's application begun.
    import_frameworks()
    try:
        runpy.run_module(f"tlt_prune.cli.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return int(ended.code or 0)
    # As Python ends a process; raised further, it would end the fork in the middle of the server's own loop.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
