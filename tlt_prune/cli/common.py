"""Shared parts of the scripts: common flags, loading the spec, one-line errors."""

from __future__ import annotations

import os
import pathlib
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from tlt_prune.config import Spec, load_spec, parse_overrides, shown, spec_from_dict
from tlt_prune.errors import SpecError, TltPruneError, first_line
from tlt_prune.io import import_frameworks, interrupt, say, workers
from tlt_prune.tasks import Task, all_tasks, task_of

FLAGS = flags.FLAGS


_OWN_FLAGS = ("experiment_spec_file", "set", "results_dir", "key", "gpus", "print_spec", "completion")


# What follows the line of a script that was interrupted.
_ONWARDS = {
    "tlt-convert": " Run the same command again to go on with the files that are missing.",
    "tlt-train": " Run the same command again to go on from the last checkpoint.",
}


def define_flags() -> None:
    """Flags that every script has."""
    flags.DEFINE_string("experiment_spec_file", None, "YAML spec file; see specs/.", short_name="e")
    flags.DEFINE_multi_string("set", [], "Override of a spec value, such as train.num_epochs=3. Can be repeated.")
    flags.DEFINE_string("results_dir", None, "Folder for results; overrides results_dir of the spec.", short_name="r")
    flags.DEFINE_string("key", None, "Accepted and ignored: models are not encrypted here.", short_name="k")
    flags.DEFINE_integer("gpus", None, "GPUs for tlt-train, each with batch_size_per_gpu pictures.")
    flags.DEFINE_bool("print_spec", False, "Print the spec (-e, or the default one) with every key explained, and end.")
    flags.DEFINE_bool("completion", False, "Print a line for ~/.bashrc that completes this script's flags, and end.")


def load(arguments: Sequence[str], flag_overrides: Mapping[str, object], without: Sequence[str] = ()) -> Spec:
    """The spec file with --set and the script's own flags applied; flags win.

    Args:
        arguments: what is left on the command line after the flags: overrides such as train.num_epochs=3, as Hydra takes them.
        flag_overrides: spec key -> flag value; None means the flag was not given.
        without: spec keys that a flag replaces: emptied, whatever the spec says.
    """
    for argument in arguments:
        if "=" not in argument:
            raise SpecError(
                f"Unexpected argument: {argument!r}. Expected flags, or overrides like train.num_epochs=3; see --help."
            )
    for name, flag in FLAGS.flag_values_dict().items():
        if flag == "" and FLAGS[name].present:
            raise SpecError(f"--{FLAGS[name].name} is empty. Expected a value: is a variable of your shell unset?")
    given: dict[str, Any] = dict.fromkeys(without)
    given |= {key: value for key, value in flag_overrides.items() if value is not None}
    if FLAGS.results_dir is not None:
        given["results_dir"] = FLAGS.results_dir
    spec = _read(FLAGS.experiment_spec_file, [*FLAGS.set, *arguments], given)
    if spec.ignored:
        say(f"Ignored, without effect here: {', '.join(spec.ignored)}.")
    if FLAGS.key is not None:
        say("Ignored: --key. Models are not encrypted here.")
    return spec


def load_task(arguments: Sequence[str], flag_overrides: Mapping[str, object], without: Sequence[str] = ()) -> Task:
    """The task of the spec that `load` returns."""
    return task_of(load(arguments, flag_overrides, without), FLAGS.experiment_spec_file or "the spec")


def _read(path: str | None, overrides: list[str], values: Mapping[str, object]) -> Spec:
    """A YAML file, or one in a format that a task has of its own."""
    if path is None or pathlib.Path(path).suffix in (".yaml", ".yml") or not pathlib.Path(path).is_file():
        return load_spec(path, overrides, values)
    # Before the first import of TensorFlow.
    import_frameworks()
    for task in sorted(all_tasks(), key=lambda x: x.takes_any_file):
        sections = task.sections_of_file(pathlib.Path(path))
        if sections is not None:
            return spec_from_dict({"task": task.name, **sections}, path, {**parse_overrides(overrides), **values})
    return load_spec(path, overrides, values)


def run(main: Callable[[list[str]], None], *, shared: bool = False) -> None:
    """Runs a script, and ends the process; every foreseeable failure becomes one line and exit code 1.

    Where several workers are started, they share the work of a script that is `shared`; worker 0 alone does that of others.
    """
    module = sys.modules[main.__module__]
    script = "tlt-" + pathlib.Path(str(module.__file__)).stem
    onwards = _ONWARDS.get(script, "")
    interrupt.install(f"{script}: error: interrupted.{onwards}")
    _open_streams()
    define_flags()
    # absl prints the help of the program's main module; as an installed script, that is a stub.
    sys.modules["__main__"].__doc__ = module.__doc__
    for name in (*_OWN_FLAGS, *(flag.name for flag in FLAGS.flags_by_module_dict().get(module.__name__, []))):
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    code = 0
    try:
        app.run(lambda argv: _guarded(main, argv, script, shared), flags_parser=lambda argv: _parsed(argv, script))
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    # What nobody foresaw is shown whole: it is a defect.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    interrupt.end(code)


def _open_streams() -> None:
    """Streams that take any text; a closed one leads nowhere, since its number would be given to the next file that is opened."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _parsed(argv: list[str], script: str) -> list[str]:
    """The command line without its flags; what is wrong with them is said as any other mistake is."""
    try:
        return list(FLAGS(argv))
    except flags.Error as error:
        fail(script, f"{first_line(error).removesuffix('.')}. See {script} --help.")


def _completion(script: str) -> str:
    """A bash command after which Tab completes the script's flags, and files otherwise."""
    names = sorted(f"--{flag.name}" for flag in FLAGS.get_key_flags_for_module(sys.argv[0]))
    return f"complete -o default -W '{' '.join(names)}' {script}"


def _guarded(main: Callable[[list[str]], None], argv: list[str], script: str, shared: bool) -> None:
    try:
        if FLAGS.completion:
            say(_completion(script))
        elif FLAGS.print_spec:
            say(load_task(argv[1:], {}).explained().rstrip())
        else:
            workers.expect(FLAGS.gpus if script == "tlt-train" else None, shared=shared)
            if not shared and not workers.is_chief():
                return
            main(argv[1:])
            workers.wait_for_all()
    except TltPruneError as error:
        fail(script, str(error))
    except OSError as error:
        fail(script, _os_error(error))
    except Exception as error:
        known = workers.lost(error) or foreseeable(error)
        if known is None:
            raise
        fail(script, known)


# What the machine refuses, as systems and libraries word it. Of an error with both, the disk is the reason: TensorFlow says of a
# full one that a resource is exhausted, too.
_DISK = ("no space left", "file too large", "read-only file system", "disk quota", "permission denied")
_MEMORY = ("resource_exhausted", "resource exhausted", "oom when allocating", "out of memory")


def foreseeable(error: BaseException) -> str | None:
    """The one line for a user, where a library wrapped a full disk or a broken picture in an error of its own."""
    lines = str(error).splitlines()
    for line in lines:
        _, found, message = line.partition("DataError: ")
        if found:
            return message
    for line in lines:
        if any(hint in line.lower() for hint in _DISK):
            return line
    exhausted = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    if exhausted or any(hint in str(error).lower() for hint in _MEMORY):
        return "out of memory. Lower the batch size, the size of the pictures or the width of the model."
    return None


def fail(script: str, message: str) -> NoReturn:
    print(f"{script}: error: {shown(message)}", file=sys.stderr)
    raise SystemExit(1)


def _os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    reason = error.strerror or str(error).splitlines()[0]
    return f"cannot write or read{where}: {reason}. Check the path, the permissions and the space on the disk."


def required(value: str, key: str, flag: str) -> str:
    """The value of a spec key that this script cannot do without."""
    if not value:
        raise TltPruneError(f"No model is given. Expected {key} in the spec, or {flag} on the command line.")
    return value


def inputs_of(task: Task) -> dict[str, Any]:
    """The spec file and the data that it names, as inputs of this script: see `io.places`."""
    return {"-e": FLAGS.experiment_spec_file, **task.data_inputs()}


def next_command(script: str, *words: object) -> str:
    """A line that suggests a command, with the -e of this call, ready to be pasted into a shell."""
    return f"Next: {script}{spec_flag()} {shlex.join(map(str, words))}"


def spec_flag() -> str:
    """The -e of this call, for the commands that a script suggests next."""
    return f" -e {shlex.quote(FLAGS.experiment_spec_file)}" if FLAGS.experiment_spec_file else ""
