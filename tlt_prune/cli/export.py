"""Exports a model to SavedModel, ONNX and LiteRT, and proves that the files compute what Keras computes.

  tlt-export -e specs/demo_digits.yaml -m results/retrain/model.keras
  tlt-export -m model.keras -o model.onnx --set export.onnx_layout=NCHW --set export.opset=13
  tlt-export -e specs/demo_digits.yaml -m results/retrain/model.keras --data_type int8
  tlt-export -e specs/demo_digits.yaml -m results/retrain/model.keras --set export.formats=[litert]

The written files are compared with Keras on pictures of the spec's test split; one that differs by more than
export.tolerance is not written. int8 is calibrated on pictures of the training split; a float file and TensorRT's calibration
cache are written beside it. Prints the trtexec command that builds a TensorRT engine, writes a script that does, and runs it
where the tensorrt package is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags

from tlt_prune import extras, files
from tlt_prune.cli import common
from tlt_prune.cli.startup import import_frameworks
from tlt_prune.errors import SpecError
from tlt_prune.specs import Spec

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Trained .keras model.", short_name="m")
flags.DEFINE_string("output_file", None, "ONNX file to write.", short_name="o")
flags.DEFINE_integer("opset", None, "ONNX opset, 13 to 17.")
flags.DEFINE_enum("onnx_layout", None, ["NHWC", "NCHW"], "Layout of the ONNX input.")
flags.DEFINE_enum("data_type", None, ["fp32", "fp16", "int8"], "Of the ONNX and LiteRT files.")
flags.DEFINE_string("cal_cache_file", None, "TensorRT calibration cache to write, with int8; default cal.bin beside the file.")


def main(argv: list[str]) -> None:
    overrides = {
        "export.model_path": FLAGS.model,
        "export.onnx_file": FLAGS.output_file,
        "export.opset": FLAGS.opset,
        "export.onnx_layout": FLAGS.onnx_layout,
        "export.data_type": FLAGS.data_type,
        "export.cal_cache_file": FLAGS.cal_cache_file,
    }
    spec = common.load(argv, overrides)
    e = spec.export
    source = common.required(e.model_path, "export.model_path", "-m")
    onnx_path = pathlib.Path(e.onnx_file or f"{spec.results_dir}/export/model.onnx")
    saved_model_path = pathlib.Path(e.saved_model_dir or f"{spec.results_dir}/export/saved_model")
    litert_path = pathlib.Path(e.litert_file or f"{spec.results_dir}/export/model.tflite")
    files.output_folder(onnx_path.parent)
    extras.require("train", "tlt-export")
    extras.require("export", "tlt-export")
    import_frameworks()
    from tlt_prune.export import export_onnx, export_saved_model, load_predictor

    predictor = load_predictor(source)
    if "litert" in e.formats:
        extras.require("litert", "export.formats: litert")
    if predictor.model is None:
        raise SpecError(f"export.model_path: expected a .keras file. Received: {source}.")
    job: Any = _Detector(spec, predictor) if spec.task == "detection" else _Classifier(spec, predictor)
    samples = job.samples()
    with contextlib.ExitStack() as stack:
        # Where one of the files cannot be written, none is.
        if "saved_model" in e.formats:
            partial = stack.enter_context(files.whole_folder(saved_model_path, "saved_model.pb"))
            pictures = job.pictures() if e.preprocessing else None
            error = export_saved_model(predictor.model, partial, samples, e.tolerance or 1e-4, predictor.info, pictures)
        if "litert" in e.formats:
            said = _litert(job, stack.enter_context(files.whole_file(litert_path)), samples)
        if e.decoding:
            decoded = onnx_path.with_name(f"{onnx_path.stem}_decoded.onnx")
            partial = stack.enter_context(files.whole_file(decoded))
            export_onnx(job.decoded(), partial, samples, opset=e.opset, layout=e.onnx_layout, info=predictor.info)
        if "onnx" in e.formats:
            _onnx(job, onnx_path, samples)
    if e.decoding:
        common.say(f"Wrote {decoded}: boxes (pictures, classes, cells, 4) in pixels, and scores (pictures, classes, cells).")
    if "litert" in e.formats:
        common.say(f"Wrote {litert_path}: {said}")
    if "saved_model" in e.formats:
        common.say(f"Wrote {saved_model_path}: equal to Keras on {len(samples)} pictures, to {error:.1e}.")
    paths = {"onnx": onnx_path, "saved_model": saved_model_path, "litert": litert_path}
    written = next(path for name, path in paths.items() if name in e.formats)
    common.say(f"Next: tlt-evaluate{common.spec_flag()} -m {written}")


class _Classifier:
    """What there is to export a classifier with."""

    def __init__(self, spec: Spec, predictor: Any) -> None:
        from tlt_prune.cli.models import agreed

        self.predictor = predictor
        self.spec, self._form, self.channels_first = agreed(spec, predictor)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width, _ = self._form.size
        return height, width

    def samples(self) -> Any:
        """Held-out pictures as the model takes them, to compare files with Keras."""
        from tlt_prune import data

        split = data.load_test_split(self.spec.dataset, self._form, self.spec.evaluate.dataset_path)
        return self._inputs(split.head(self.spec.export.parity_samples))

    def calibration(self) -> Any:
        """Pictures as the model takes them, to measure ranges on."""
        from tlt_prune import data
        from tlt_prune.data.pipeline import preprocess

        e = self.spec.export
        if e.cal_image_dir:
            few = data.picture_files(e.cal_image_dir)[: e.batches * e.batch_size]
            dataset, depth = self.spec.dataset, self._form.depth
            batches = data.picture_batches(few, self._form, e.batch_size)
            return np.concatenate([np.asarray(preprocess(x, dataset, self.channels_first, depth)) for x in batches])
        train_split, _ = data.load_splits(self.spec.dataset, self._form)
        return self._inputs(train_split.sample(e.batches * e.batch_size, self.spec.train.random_seed))

    def training(self, epochs: int) -> dict[str, Any]:
        """How its twin is trained."""
        from tlt_prune import data
        from tlt_prune.cli.twin_training import how_to_train

        train_split, _ = data.load_splits(self.spec.dataset, self._form)
        return how_to_train(self.spec, train_split, self._form, self.channels_first, epochs)

    def decoded(self) -> Any:
        raise SpecError("export.decoding: expected false for a classifier, which says no boxes.")

    def pictures(self) -> Any:
        """The model's preprocessing, for the SavedModel's second signature."""
        import tensorflow as tf

        from tlt_prune.data.pipeline import preprocess
        from tlt_prune.export.saved_model import Pictures

        form, dataset = self._form, self.spec.dataset
        method = {"box": "area", "hamming": "gaussian", "lanczos": "lanczos3"}.get(form.resample, form.resample)

        def prepare(images: Any) -> Any:
            resized = tf.image.resize(tf.cast(images, tf.float32), form.size[:2], method, antialias=True)
            return preprocess(tf.ensure_shape(resized, (None, *form.size)), dataset, self.channels_first, form.depth)

        return Pictures(form.size[2], np.dtype(form.dtype).name, prepare)

    def _inputs(self, split: Any) -> Any:
        from tlt_prune import data

        pipeline = data.evaluation_pipeline(
            split, self.spec.dataset, self._form, batch_size=64, channels_first=self.channels_first
        )
        return np.concatenate([np.asarray(x) for x, _ in pipeline.batches])


class _Detector:
    """What there is to export a detector with."""

    def __init__(self, spec: Spec, predictor: Any) -> None:
        from tlt_prune.cli.detection import output_size, read

        self.spec, self.predictor, self._job = spec, predictor, read(spec)
        self._output = output_size(predictor.model)
        self.channels_first = predictor.channels_first(self._job.channels)
        self._training, self._validation = self._job.splits()

    @property
    def size(self) -> tuple[int, int]:
        width, height = self._job.size
        return height, width

    def samples(self) -> Any:
        return self._inputs(self._validation.pictures[: self.spec.export.parity_samples])

    def calibration(self) -> Any:
        e = self.spec.export
        if e.cal_image_dir:
            raise SpecError("export.cal_image_dir: a detector is calibrated on the spec's training pictures. Expected none.")
        return self._inputs(self._training.pictures[: e.batches * e.batch_size])

    def training(self, epochs: int) -> dict[str, Any]:
        raise SpecError("export.litert_qat_epochs: expected 0 for a detector, which is quantised after training.")

    def decoded(self) -> Any:
        from tlt_prune.detection import experiment
        from tlt_prune.detection.decoded import with_decoding

        columns, rows, first = self._output
        return with_decoding(self.predictor.model, experiment.grid(self._job.message, columns, rows), first)

    def pictures(self) -> Any:
        import tensorflow as tf

        from tlt_prune.export.saved_model import Pictures

        def prepare(images: Any) -> Any:
            resized = tf.image.resize(tf.cast(images, tf.float32) / 255, self.size, antialias=True)
            resized = tf.ensure_shape(resized, (None, *self.size, self._job.channels))
            return tf.transpose(resized, (0, 3, 1, 2)) if self.channels_first else resized

        return Pictures(self._job.channels, "uint8", prepare)

    def _inputs(self, pictures: Any) -> Any:
        from tlt_prune.detection.evaluation import as_input

        return as_input(pictures.astype(np.float32) / 255, self.channels_first)


def _onnx(job: Any, path: pathlib.Path, samples: Any) -> None:
    from tlt_prune.export import EngineOptions, build_engine, export_onnx, trtexec_command, write_build_script
    from tlt_prune.quantization import is_quantisation_aware, write_calibration_cache

    e, model = job.spec.export, job.predictor.model
    aware = is_quantisation_aware(model)
    calibrated = e.data_type == "int8" and not aware
    precision = "float16" if e.data_type == "fp16" else "float32"
    source = path.with_name(f"{path.stem}_fp32.onnx") if calibrated else path
    found = None
    # The float file appears once the int8 file does.
    with files.whole_file(source) as partial:
        error = export_onnx(
            model,
            partial,
            samples,
            opset=e.opset,
            layout=e.onnx_layout,
            precision=precision,
            tolerance=e.tolerance,
            info=job.predictor.info,
        )
        if calibrated:
            found = _calibrated(job, partial, path)
    kind = "int8, trained so" if aware else {"float32": "fp32", "float16": "fp16"}[precision]
    common.say(
        f"Wrote {source}: {kind}, opset {e.opset}, {e.onnx_layout}, equal to Keras on {len(samples)} pictures, to {error:.1e}."
    )
    if found is not None:
        common.say(
            f"Wrote {path}: int8 for {e.target}, calibrated by {e.calibration} on {found.examples} pictures; the largest class "
            f"is that of the float file on {100 * found.agreement:.1f} % of them."
        )
    engine = EngineOptions(
        job.size,
        e.min_batch_size,
        e.opt_batch_size,
        e.max_batch_size,
        pathlib.Path(e.engine_file) if e.engine_file else None,
    )
    script = write_build_script(path, engine)
    common.say(f"TensorRT engine, {'int8 and ' if aware or calibrated else ''}float16: python {script}, or")
    common.say(f"  {trtexec_command(path, engine)}")
    if found is not None:
        cache = pathlib.Path(e.cal_cache_file) if e.cal_cache_file else path.with_name("cal.bin")
        write_calibration_cache(cache, found.scales, e.calibration)
        common.say(f"or, where TensorRT is to place int8 by itself, by the scales in {cache}:")
        common.say(f"  {trtexec_command(source, dataclasses.replace(engine, calibration_cache=cache))}")
    if build_engine(script):
        common.say("The tensorrt package is installed: built the engine.")


def _litert(job: Any, path: pathlib.Path, samples: Any) -> str:
    from tlt_prune import quantization
    from tlt_prune.export import export_litert, load_predictor

    e, model = job.spec.export, job.predictor.model
    precision = {"fp32": "float32", "fp16": "float16", "int8": "int8"}[e.data_type]
    calibration, how = None, {"float32": "fp32", "float16": "fp16"}.get(precision, "int8, trained so")
    if precision == "int8" and e.litert_qat_epochs:
        model = quantization.train_for_litert(model, **job.training(e.litert_qat_epochs))
    elif precision == "int8":
        calibration = job.calibration()
        how = f"int8, calibrated by min_max on {len(calibration)} pictures"
    error = export_litert(
        model, path, samples, precision=precision, calibration=calibration, tolerance=e.tolerance, info=job.predictor.info
    )
    if e.data_type != "int8":
        return f"LiteRT, {how}, equal to Keras on {len(samples)} pictures, to {error:.1e}."
    same = np.mean(load_predictor(path)(samples).argmax(1) == job.predictor(samples).argmax(1))
    return f"LiteRT, {how}; the largest class is that of Keras on {100 * same:.1f} % of {len(samples)} pictures."


def _calibrated(job: Any, source: pathlib.Path, path: pathlib.Path) -> Any:
    """Writes the int8 file of a float one."""
    from tlt_prune import quantization

    e = job.spec.export
    inputs = job.calibration()
    if e.onnx_layout == "NCHW" and not job.channels_first:
        inputs = np.ascontiguousarray(np.transpose(inputs, (0, 3, 1, 2)))
    batches = [inputs[i : i + e.batch_size] for i in range(0, len(inputs), e.batch_size)]
    return quantization.quantize_onnx(
        source, path, batches, method=e.calibration, percentile=e.percentile, target=e.target, excluded=e.excluded_nodes
    )


def entry() -> None:
    common.run(main)


if __name__ == "__main__":
    entry()
