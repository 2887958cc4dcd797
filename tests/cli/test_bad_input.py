"""What you give and what you get: one clear line, exit code 1, nothing left behind, nothing lost."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import re
import shutil
import zipfile
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from scripts import one_line, run

SPEC = """
results_dir: {results}
dataset: {{train_dataset_path: {data}/good.npz, preprocess_mode: unit}}
model: {{backbone: resnet_10, width: 0.125, input_width: 8, input_height: 8, input_channels: 1}}
train: {{num_epochs: 1, batch_size_per_gpu: 32, tensorboard: false}}
prune: {{ratio: 0.5, min_num_filters: 4, granularity: 4}}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a trained model, and every bad file that the table names."""
    folder = tmp_path_factory.mktemp("bad")
    arrays(folder)
    (folder / "spec.yaml").write_text(SPEC.format(results=folder / "results", data=folder))
    run("train", "-e", folder / "spec.yaml")
    shutil.copy(folder / "results/train/model.keras", folder / "model.keras")
    model_files(folder)
    spec_files(folder)
    picture_folders(folder)
    return folder


def arrays(folder: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8, 1), dtype=np.uint8), np.arange(60) % 3

    def npz(name: str, **changes: Any) -> None:
        np.savez(folder / f"{name}.npz", **{"x_train": x, "y_train": y, "x_test": x[:12], "y_test": y[:12], **changes})

    npz("good")
    npz("five", y_train=np.arange(60) % 5, y_test=np.arange(12) % 5)
    npz("negative", y_train=np.where(np.arange(60) == 7, -1, y))
    npz("fractional", y_train=y + 0.5 * (np.arange(60) == 3))
    npz("text", y_train=np.array(["a", "b", "c"] * 20))
    npz("huge", y_train=np.where(np.arange(60) == 7, 10**12, y))
    npz("nolabels", y_train=np.array([], int))
    npz("unequal", y_train=y[:50])
    npz("nan", x_train=np.where(x > 250, np.nan, x))
    npz("first", x_train=rng.integers(0, 255, (60, 5, 8, 8), dtype=np.uint8))
    npz("gap", y_train=np.where(y == 1, 0, y), y_test=y[:12])
    np.savez(folder / "keys.npz", x_train=x)
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:2000])
    (folder / "junk.npz").write_bytes(b"junk")


def model_files(folder: pathlib.Path) -> None:
    whole = (folder / "model.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.keras").write_bytes(b"")
    with zipfile.ZipFile(folder / "nothing.keras", "w") as archive:
        archive.writestr("readme.txt", "no model")
    with zipfile.ZipFile(folder / "config.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    with zipfile.ZipFile(folder / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"zeros{i}", b"\0" * 2**28)
    (folder / "junk.onnx").write_bytes(b"junk")
    (folder / "junk.tflite").write_bytes(b"junk")
    run("export", "-e", folder / "spec.yaml", "-m", folder / "model.keras", "-o", folder / "good.onnx", "export.formats=[onnx]")
    (folder / "folder").mkdir()
    (folder / "classmap.json").write_text("[1, 2]")
    (folder / "encrypted.keras").write_bytes(encrypted(whole))
    for suffix in ("tlt", "engine"):
        (folder / f"model.{suffix}").write_bytes(b"\x93\x07\xff")
    nan_weight(folder)


def encrypted(archive: bytes) -> bytes:
    """A zip archive whose members all say that they need a password."""
    data = bytearray(archive)
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for found in re.finditer(signature, archive):
            data[found.start() + flags] |= 1
    return bytes(data)


def nan_weight(folder: pathlib.Path) -> None:
    """nan.keras: model.keras with one NaN in a kernel of its last layer."""
    with zipfile.ZipFile(folder / "model.keras") as good, zipfile.ZipFile(folder / "nan.keras", "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if name == "model.weights.h5":
                stream = io.BytesIO(data)
                with h5py.File(stream, "r+") as file:
                    file["layers/dense/vars/0"][0, 0] = np.nan
                data = stream.getvalue()
            bad.writestr(name, data)


def spec_files(folder: pathlib.Path) -> None:
    text = (folder / "spec.yaml").read_text()
    (folder / "twice.yaml").write_text(text + "train: {num_epochs: 9}\n")
    (folder / "latin.yaml").write_bytes(text.encode() + b"# \xff\xfe\n")
    (folder / "broken.yaml").write_text("train: [1\n")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "typo.yaml").write_text(text.replace("num_epochs", "num_epoch"))
    (folder / "several.yaml").write_text("trian: {}\nmodel: {width: 0}\ntrain: {num_epochs: -1}\n")
    (folder / "empty.yaml").write_text("")


def picture_folders(folder: pathlib.Path) -> None:
    def pictures(name: str, *classes: str) -> pathlib.Path:
        for label in classes:
            (folder / name / label).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / name / label / f"{i}.png")
        return folder / name

    pictures("pictures", "0", "1", "2")
    pictures("alone", "only")
    (pictures("hollow", "a", "b") / "none").mkdir()
    (pictures("broken", "a", "b", "c") / "a/9.png").write_bytes(b"\x89PNG but no more")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(pictures("float", "a", "b", "c") / "a/9.tiff")
    looped = pictures("looped", "a", "b", "c")
    (looped / "d").symlink_to(looped, target_is_directory=True)
    Image.new("L", (20_000, 20_000)).save(pictures("giant", "a", "b", "c") / "a/9.png")
    pictures("others", "x", "y", "z")


T, P, E, N, X = "train", "prune", "evaluate", "infer", "export"
BASE = ["-e", "{job}/spec.yaml"]
MODEL = [*BASE, "-m", "{job}/model.keras"]


def data(path: str) -> list[str]:
    return [*BASE, "--set", f"dataset.train_dataset_path={{job}}/{path}"]


def folders(path: str) -> list[str]:
    return [*data(path), "--set", f"dataset.val_dataset_path={{job}}/{path}"]


# (script, arguments, what the line says)
TABLE: list[tuple[str, list[str], str]] = [
    # The spec.
    (T, ["-e", "{job}/nowhere.yaml"], "Cannot read the spec file"),
    (T, ["-e", "{job}/folder"], "Cannot read the spec file"),
    (P, ["-e", "{job}/twice.yaml", "-m", "x.keras"], "the key 'train' is given twice"),
    (E, ["-e", "{job}/latin.yaml", "-m", "x.keras"], "expected text in UTF-8"),
    (N, ["-e", "{job}/broken.yaml", "-m", "x.keras"], "is not valid YAML"),
    (X, ["-e", "{job}/list.yaml", "-m", "x.keras"], "expected sections with keys"),
    (T, ["-e", "{job}/typo.yaml"], "Did you mean 'train.num_epochs'?"),
    (T, ["-e", "{job}/several.yaml"], "'model.width' must be greater.*'train.num_epochs' must be greater.*unknown key 'trian'"),
    (T, [*BASE, "--set", "train.num_epochs=["], "is not valid YAML"),
    (T, [*BASE, "--set", "train.num_epochs"], "Expected an override like train.num_epochs=3"),
    (T, [*BASE, "--set", "train.num_epochs.x=3"], "not a section|must be a whole number"),
    (T, [*BASE, "train.num_epochs=0"], "'train.num_epochs' must be greater than or equal to 1. Received: 0"),
    (T, [*BASE, "train.num_epochs=-3"], "must be greater than or equal to 1"),
    (T, [*BASE, "train.batch_size_per_gpu=0"], "'train.batch_size_per_gpu' must be greater"),
    (T, [*BASE, "train.lr_config.learning_rate=.nan"], "must be a finite number"),
    (T, [*BASE, "model.input_channels=2"], "'model.input_channels' must be 1 or 3. Received: 2"),
    (T, [*BASE, "model.width=0"], "'model.width' must be greater than 0"),
    (T, [*BASE, "model.backbone=resnet_11"], "Did you mean 'resnet"),
    (T, [*BASE, "train.qat=true"], "train.qat: expected a trained model in train.pretrained_model_path"),
    (
        T,
        [*BASE, "train.qat=true", "train.pretrained_model_path={job}/model.keras", "train.qat_config.excluded_layers=[conv7]"],
        "excluded: .* has no layer 'conv7'",
    ),
    (T, [*BASE, "train.qat_config.ranges=wide"], "must be 'moving' or 'learned'. Received: 'wide'"),
    (P, ["-m", "{job}/model.keras", "--sparsity", "2:4"], "prune.sparsity: expected a spec"),
    (P, [*MODEL, "prune.sparsity=4:8"], "'prune.sparsity' must be 'none' or '2:4'. Received: '4:8'"),
    (X, [*MODEL, "export.decoding=true"], "export.decoding: expected false for a classifier"),
    (P, [*MODEL, "prune.clusters=1"], "prune.clusters: expected 0, or at least 2. Received: 1"),
    (P, [*MODEL, "prune.clusters=8", "--sparsity", "2:4"], "prune.sparsity and prune.clusters: expected one of them"),
    (P, ["-m", "{job}/model.keras", "--clusters", "8"], "prune.clusters: expected a spec"),
    (X, [*MODEL, "--data_type", "int8", "export.percentile=20"], "'export.percentile' must be greater than 50"),
    (X, [*MODEL, "--data_type", "int8", "export.cal_image_dir={job}/nowhere"], "There are no pictures at"),
    (X, [*MODEL, "--data_type", "int8", "export.excluded_nodes=[conv7]"], "excluded: no node is called 'conv7'"),
    # A comma of a regular expression.
    (X, [*MODEL, "--data_type", "int8", "--excluded_nodes", "x{{7,9}}"], r"excluded: no node is called 'x\{7,9\}'"),
    (T, ["-e", "{job}/spec.yaml", "-r", ""], "--results_dir is empty"),
    (T, [*BASE, "-o", ""], "--output_dir is empty"),
    (P, ["-m", "", "--ratio", "0.5"], "--model is empty"),
    (E, [*MODEL, "evaluate.batch_size=0"], "'evaluate.batch_size' must be greater"),
    (X, [*MODEL, "--opset", "12"], "'export.opset' must be greater than or equal to 13. Received: 12"),
    (X, [*MODEL, "--set", "export.formats=[tflite]"], "must be 'saved_model', 'onnx' or 'litert'"),
    (E, [*BASE, "-m", "{job}/junk.tflite"], "Cannot load .*junk.tflite as LiteRT"),
    # Pruning.
    (P, ["-m", "{job}/model.keras"], "Expected one of threshold=.*ratio="),
    (P, [*MODEL, "-pth", "1.5"], "scores divided by their layer's largest are at most 1"),
    (P, [*MODEL, "-pth", "-1"], "'prune.threshold' must be greater than or equal to 0"),
    (P, [*MODEL, "-pth", "True"], "'prune.threshold' must be a number"),
    (P, [*MODEL, "--ratio", "1"], "'prune.ratio': expected a number of at least 0 and below 1"),
    (P, [*MODEL, "--ratio", "0.5", "-pth", "0.5"], "expected one of threshold, ratio, params"),
    (P, [*MODEL, "-pg", "0"], "'prune.granularity' must be"),
    (P, [*MODEL, "--macs", "0.001"], "macs=0.001 .* cannot be met.*this model keeps at least"),
    (P, [*MODEL, "--macs", "0.5", "--params", "0.5"], "expected one of threshold, ratio, params.*params=0.5, macs=0.5"),
    (P, [*MODEL, "--macs", "lots"], "a share like"),
    (P, [*MODEL, "--macs", "0.5", "--compensation", "magic"], "'prune.compensation.*' must be"),
    (P, [*MODEL, "--macs", "0.5", "--plain", "--criterion", "Taylor"], "--plain and --criterion say different things"),
    (P, [*MODEL, "--macs", "0.5", "--layer_options", "{{x9: {{ratio: 0.5}}}}"], "no layer with filters matches 'x9'"),
    (P, [*MODEL, "--macs", "0.5", "--schedule", "{{steps: 0}}"], "'prune.schedule.steps' must be greater"),
    (P, ["-m", "{job}/model.keras", "--macs", "0.5", "--criterion", "Taylor"], "needs data.*dataset.train_dataset_path"),
    (P, ["-m", "{job}/model.keras", "--ratio", "0.5", "--compensation", "least_squares"], "needs data"),
    (P, [*MODEL, "--macs", "0.5", "dataset.train_dataset_path={job}/nowhere.npz"], "nowhere.npz"),
    (T, [*BASE, "train.distill.teacher={job}/nowhere.keras"], "There is no model"),
    (T, [*BASE, "train.distill.alpha=2"], "'train.distill.alpha' must be less than or equal to 1"),
    (P, [*MODEL, "-pg", "some"], "must be a whole number or 'auto'"),
    (P, [*MODEL, "-el", "conv2"], "no layer matches 'conv2'. Did you mean 'conv1'"),
    (P, [*MODEL, "--channelwise_layers", "conv1"], "have a rule of their own"),
    (P, [*MODEL, "-o", "{out}/pruned.h5"], "expected a name that ends in .keras"),
    (P, BASE, "No model is given"),
    # Model files.
    (P, [*BASE, "-m", "{job}/nowhere.keras"], "There is no model file"),
    # A name of digits is a name.
    (E, [*BASE, "-m", "2024"], "There is no model 2024"),
    (N, [*MODEL, "-d", "2024"], "There are no pictures at 2024"),
    (P, [*BASE, "-m", "{job}/cut.keras"], "is no whole .keras file: it is cut off"),
    (E, [*BASE, "-m", "{job}/empty.keras"], "is no whole .keras file"),
    (X, [*BASE, "-m", "{job}/nothing.keras"], "Cannot load .*nothing.keras as a Keras model"),
    (P, [*BASE, "-m", "{job}/config.keras"], "Cannot load .*config.keras as a Keras model"),
    (P, [*BASE, "-m", "{job}/bomb.keras"], "would unpack to 1,073,741,824 bytes"),
    (E, [*BASE, "-m", "{job}/junk.onnx"], "Cannot load .*junk.onnx as ONNX"),
    (E, [*BASE, "-m", "{job}/folder"], "Cannot load the folder .*as a SavedModel"),
    (X, [*BASE, "-m", "{job}/junk.onnx"], "Cannot load .*as ONNX|expected a .keras file"),
    (T, [*BASE, "train.pretrained_model_path={job}/cut.keras"], "is no whole .keras file"),
    (T, [*BASE, "train.pretrained_model_path={job}/nowhere.h5"], "There is no weights file"),
    (T, [*BASE, "train.pretrained_model_path={job}/good.onnx"], "expected a .keras, .h5 or .hdf5 file"),
    (X, [*MODEL, "--set", "export.saved_model_dir={job}/results"], "results is no earlier export .*stays as it is"),
    (T, [*data("five.npz"), "train.pretrained_model_path={job}/model.keras"], "has 3 outputs. Expected 5"),
    (T, [*BASE, "train.pretrained_model_path={job}/model.keras", "model.input_width=16"], "the spec says 16, but .* has 8"),
    (E, [*BASE, "-m", "{job}/nan.keras"], "answers NaN or infinity for 1 of the 1 pictures of a batch"),
    (N, [*BASE, "-m", "{job}/nan.keras", "-d", "{job}/pictures"], "answers NaN or infinity"),
    (P, [*BASE, "-m", "{job}/nan.keras"], "has weights that are not finite: 1 of"),
    (E, [*BASE, "-m", "{job}/model.tlt"], "one of TAO's encrypted files, which only TAO reads: export it to .keras or .h5 there"),
    (P, [*BASE, "-m", "{job}/model.engine"], "is a TensorRT engine"),
    (E, [*BASE, "-m", "{job}/encrypted.keras"], "is encrypted, password required"),
    # Names and sizes.
    (T, [*BASE, "-r", "a\udce9"], "'results_dir': expected text in UTF-8"),
    (P, [*MODEL, "-o", "{out}/" + "n" * 300 + ".keras"], "cannot write or read .*too long"),
    (T, [*BASE, "train.batch_size_per_gpu=1000000000000"], "expected at most 65,536: a batch is in memory at once"),
    (T, [*BASE, "train.num_epochs=9223372036854775808"], "expected at most"),
    (T, [*BASE, "model.input_width=1000000"], "expected at most 16,384: a picture is decoded in memory"),
    (T, [*BASE, "dataset.split_seed=-1"], "greater than or equal to 0"),
    (T, [*BASE, "model.backbone=resnet_11"], "Did you mean 'resnet1"),
    (T, [*BASE, "dataset.test_dataset_path=x"], "Did you mean 'dataset.val_dataset_path'"),
    (P, ["--ratoi", "0.5"], "Unknown command line flag 'ratoi'"),
    (X, ["--opset", "many"], "'export.opset' must be a whole number. Received: 'many'"),
    (P, ["--ratio", "150%"], "expected a number of at least 0 and below 1, or a share"),
    # Data.
    (T, data("nowhere"), "Expected a folder of class folders or of shards, a .npz file or one of"),
    (T, data("cut.npz"), "Cannot read .*cut.npz as .npz"),
    (T, data("junk.npz"), "Cannot read .*junk.npz as .npz"),
    (T, data("keys.npz"), "Missing: y_train, x_test, y_test"),
    (T, data("negative.npz"), r"y_train: expected whole numbers 0, 1, 2... Received: -1 "),
    (T, data("fractional.npz"), r"y_train: expected whole numbers 0, 1, 2... Received: 0.5 "),
    (T, data("text.npz"), r"y_train: expected whole numbers 0, 1, 2... Received: a, b, c "),
    (T, data("huge.npz"), "y_train: expected whole numbers 0, 1, 2... Received: 1000000000000 "),
    (T, data("nolabels.npz"), "y_train is empty"),
    (T, data("unequal.npz"), "one label each. Received: uint8 .* and 50 labels"),
    (T, data("nan.npz"), "expected x_train as uint8 or uint16 pictures.*Received: float64"),
    (T, data("first.npz"), r"expected x_train as .*Received: uint8 \(60, 5, 8, 8\)"),
    (T, data("gap.npz"), "has no pictures of class 1"),
    (T, data("pictures"), "expected dataset.val_dataset_path as well"),
    (T, folders("alone"), "expected at least two class folders. Found 1"),
    (T, folders("hollow"), "holds no pictures"),
    (T, folders("broken"), "Cannot read the picture .*9.png"),
    (T, folders("float"), "floating-point numbers.*expected 8 or 16 bits"),
    (T, folders("looped"), "is a link to .*which holds it"),
    (T, folders("giant"), "is too large"),
    (T, [*BASE, "dataset.num_classes=4"], "dataset.num_classes is 4, but"),
    (
        E,
        [*MODEL, "-i", "{job}/five.npz"],
        "not among those trained on: 3, 4. Expected some of the 3 classes 0, 1, 2",
    ),
    (E, [*MODEL, "-i", "{job}/others"], "not among those trained on: x, y, z. Expected some of the 3 classes 0, 1, 2"),
    (N, [*MODEL, "-d", "{job}/nowhere"], "There are no pictures at"),
    (N, [*MODEL, "-d", "{job}/pictures", "--classmap", "{job}/classmap.json"], "Cannot read the class map"),
    # The disk.
    (T, [*BASE, "-r", "{job}/model.keras/x"], "cannot write or read"),
    (P, [*MODEL, "-o", "{job}/model.keras/x.keras"], "cannot write or read"),
]


def everything(folder: pathlib.Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return {str(p.relative_to(folder)): hashlib.sha1(p.read_bytes()).hexdigest() for p in files}


def test_the_table_is_long_enough_and_covers_every_script() -> None:
    assert len(TABLE) >= 60
    assert {script for script, _, _ in TABLE} == {T, P, E, N, X}


@pytest.mark.parametrize(("script", "arguments", "message"), TABLE)
def test_one_clear_line(job: pathlib.Path, script: str, arguments: list[str], message: str, tmp_path: pathlib.Path) -> None:
    before = everything(job)
    out = tmp_path / "out"
    given = [x.format(job=job, out=out) for x in arguments]
    if not any(x in ("-o", "-r") for x in given):
        given += ["-o", str(out / "x.keras" if script == P else out / "x.onnx" if script == X else out)]
    _, err = run(script, *given, code=1, cwd=tmp_path)
    line = one_line(err, script)
    assert re.search(message, line), line
    # Nothing of a library's insides.
    assert not re.search(r"Traceback|0x[0-9a-f]{6}|np\.\w+\(|<class|\x1b|site-packages", line), line
    assert len(line) < 700
    # Nothing lost, nothing left behind but folders.
    assert everything(job) == before
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"] == []


def test_a_picture_of_sixteen_bits_is_scaled(job: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from tlt_prune.data import PictureFormat
    from tlt_prune.data.formats import load_picture

    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    eight = load_picture(tmp_path / "deep.png", PictureFormat(8, 8, 1))
    np.testing.assert_allclose(eight[..., 0], values / 257, atol=0.5)
    sixteen = load_picture(tmp_path / "deep.png", PictureFormat(8, 8, 1, depth=16))
    np.testing.assert_array_equal(sixteen[..., 0], values)
    Image.fromarray((values // 257).astype(np.uint8)).save(tmp_path / "shallow.png")
    assert abs(int(load_picture(tmp_path / "shallow.png", PictureFormat(8, 8, 1, depth=16)).max()) - 65535) < 2


def test_the_model_knows_itself(job: pathlib.Path) -> None:
    with zipfile.ZipFile(job / "model.keras") as archive:
        info = json.loads(archive.read("tlt_prune/model.json"))
    assert info["classes"] == ["0", "1", "2"]
    assert info["preprocess_mode"] == "unit"
