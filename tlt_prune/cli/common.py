"""What the five scripts share: flags, and error lines."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging

from tlt_prune.cli.startup import import_frameworks
from tlt_prune.errors import SpecError, TltPruneError
from tlt_prune.specs import Spec, load_spec, parse_overrides, spec_from_dict

FLAGS = flags.FLAGS


_OWN_FLAGS = ("experiment_spec_file", "set", "results_dir", "key", "gpus")


def define_flags() -> None:
    """Flags that every script has."""
    flags.DEFINE_string("experiment_spec_file", None, "YAML spec file; see specs/.", short_name="e")
    flags.DEFINE_multi_string("set", [], "Override of a spec value, such as train.num_epochs=3. Can be repeated.")
    flags.DEFINE_string("results_dir", None, "Folder for results; overrides results_dir of the spec.", short_name="r")
    flags.DEFINE_string("key", None, "Accepted and ignored: models are not encrypted here.", short_name="k")
    flags.DEFINE_integer("gpus", None, "Accepted and ignored: TensorFlow uses the devices it finds.")


def number(value: Any) -> Any:
    """A flag's text as the number it may be; texts that are none stay."""
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value


def load(arguments: Sequence[str], flag_overrides: Mapping[str, Any], without: Sequence[str] = ()) -> Spec:
    """The spec file with --set and the script's own flags applied; flags win.

    Args:
        arguments: what is left on the command line after the flags: overrides such as train.num_epochs=3, as Hydra takes them.
        flag_overrides: spec key -> flag value; None means the flag was not given.
        without: spec keys that a flag replaces: emptied, whatever the spec says.
    """
    for argument in arguments:
        if "=" not in argument:
            raise app.UsageError(
                f"Unexpected argument: {argument!r}. Expected flags, or overrides like train.num_epochs=3; see --help."
            )
    for name, flag in FLAGS.flag_values_dict().items():
        if flag == "" and FLAGS[name].present:
            raise SpecError(f"--{FLAGS[name].name} is empty. Expected a value: is a variable of your shell unset?")
    given = [f"{key}=null" for key in without]
    given += [f"{key}={json.dumps(value)}" for key, value in flag_overrides.items() if value is not None]
    if FLAGS.results_dir is not None:
        given.append(f"results_dir={json.dumps(FLAGS.results_dir)}")
    spec = _read(FLAGS.experiment_spec_file, [*FLAGS.set, *arguments, *given])
    if spec.ignored:
        say(f"Ignored, without effect here: {', '.join(spec.ignored)}.")
    if FLAGS.key is not None:
        say("Ignored: --key. Models are not encrypted here.")
    return spec


def _read(path: str | None, overrides: list[str]) -> Spec:
    """YAML, or the toolkit's protobuf text of detection."""
    if path is None or pathlib.Path(path).suffix in (".yaml", ".yml") or not pathlib.Path(path).is_file():
        return load_spec(path, overrides)
    # Before the first import of TensorFlow.
    import_frameworks()
    from tlt_prune.detection import experiment

    sections = experiment.to_dict(experiment.load(path))
    return spec_from_dict({"task": "detection", **sections}, path, parse_overrides(overrides))


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script; every foreseeable failure becomes one line and exit code 1."""
    define_flags()
    module = sys.modules[main.__module__]
    # absl prints the help of the program's main module; as an installed script, that is a stub.
    sys.modules["__main__"].__doc__ = module.__doc__
    for name in (*_OWN_FLAGS, *(flag.name for flag in FLAGS.flags_by_module_dict().get(module.__name__, []))):
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
    script = "tlt-" + pathlib.Path(str(module.__file__)).stem
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    app.run(lambda argv: _guarded(main, argv, script))


def _guarded(main: Callable[[list[str]], None], argv: list[str], script: str) -> None:
    try:
        main(argv[1:])
    except TltPruneError as error:
        fail(script, str(error))
    except OSError as error:
        fail(script, _os_error(error))
    except KeyboardInterrupt:
        onwards = " Run the same command again to go on from the last checkpoint." if script == "tlt-train" else ""
        fail(script, f"interrupted.{onwards}", code=130)
    except Exception as error:
        known = foreseeable(error)
        if known is None:
            raise
        fail(script, known)


def foreseeable(error: BaseException) -> str | None:
    """The one line for a user, where a library wrapped a full disk or a broken picture in an error of its own."""
    lines = str(error).splitlines()
    for line in lines:
        _, found, message = line.partition("DataError: ")
        if found:
            return message
    hints = ("no space left", "file too large", "read-only file system", "disk quota", "resource exhausted", "permission denied")
    return next((line for line in lines if any(hint in line.lower() for hint in hints)), None)


def fail(script: str, message: str, code: int = 1) -> None:
    print(f"{script}: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def _os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    reason = error.strerror or str(error).splitlines()[0]
    return f"cannot write or read{where}: {reason}. Check the path, the permissions and the space on the disk."


def say(message: str = "") -> None:
    print(message, flush=True)


def spec_name() -> str:
    """The spec file of this call, for messages."""
    return (FLAGS.experiment_spec_file if FLAGS.is_parsed() else None) or "the spec"


def required(value: str, key: str, flag: str) -> str:
    """The value of a spec key that this script cannot do without."""
    if not value:
        raise TltPruneError(f"No model is given. Expected {key} in the spec, or {flag} on the command line.")
    return value


def spec_flag() -> str:
    """The -e of this call, for the commands that a script suggests next."""
    return f" -e {FLAGS.experiment_spec_file}" if FLAGS.experiment_spec_file else ""
