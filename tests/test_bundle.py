import configparser
import io
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hostile_bundles import edited, files_of, write_folder
from tiny_tflite import CLASSES, SHAPE, samples, tiny_tflite

from keras_micronets.edge import EnsembleRunner, Manifest, Member, verify
from keras_micronets.edge.bundle.integrity import sha256
from keras_micronets.export import BundleMember, atomic, write_bundle
from keras_micronets.export.bundle import writer
from keras_micronets.export.bundle.writer import zip_size

MEMBERS = ["a", "b/../c d", "e"]


def members():
    return [
        BundleMember(name, tiny_tflite(seed, softmax=seed != 1), seed == 1, {"i": seed})
        for seed, name in enumerate(MEMBERS)
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_bundle(
        tmp_path_factory.mktemp("bundles") / "bundle",
        members(),
        class_names=["x", "y", "z"],
        preprocessing={"mean": 127.5, "scale": 64},
        accuracies={"test": {"value": np.float64(0.5), "how": "a guess"}},
    )


@pytest.fixture
def bundle(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def test_contents(original):
    assert sorted(os.listdir(original)) == [
        "00-a.tflite",
        "01-b_c_d.tflite",
        "02-e.tflite",
        "__main__.py",
        "edge",
        "manifest.json",
        "manifest.sha256",
        "requirements.txt",
    ]
    package = Path(writer.__file__).parents[2] / "edge"
    code = {
        p.relative_to(package).as_posix(): p.read_bytes() for p in package.rglob("*.py")
    }
    assert files_of(original / "edge") == code
    assert (original / "00-a.tflite").read_bytes() == members()[0].model


def test_manifest(original):
    manifest = verify(original)
    about = {"manifest.json", "manifest.sha256"}
    assert set(manifest.files) == set(files_of(original)) - about
    first = manifest.members[0]
    assert [m.name for m in manifest.members] == MEMBERS
    assert [m.from_logits for m in manifest.members] == [False, True, False]
    assert (first.input.shape, first.output.shape) == (SHAPE, (CLASSES,))
    assert (first.output.scale, first.output.zero_point) == (1 / 256, -128)
    assert first.bytes == len(members()[0].model)
    assert 0 < first.gzip_bytes < first.bytes
    assert first.metadata == {"i": 0}
    assert manifest.accuracies == {"test": {"value": 0.5, "how": "a guess"}}
    assert manifest.combination.rule == "mean"


def test_models_may_be_paths(tmp_path):
    (tmp_path / "m.tflite").write_bytes(tiny_tflite())
    written = write_bundle(
        tmp_path / "deep" / "bundle", [BundleMember("m", tmp_path / "m.tflite")]
    )
    x = samples()
    with EnsembleRunner(written) as runner:
        np.testing.assert_allclose(
            runner.predict(x), Member(tiny_tflite()).predict(x), atol=1e-7
        )


def test_requirements_are_those_of_the_package():
    config = configparser.ConfigParser(interpolation=None)
    config.read(Path(__file__).parents[1] / "setup.cfg")
    needed = config["options"]["install_requires"].splitlines()
    assert set(writer.REQUIREMENTS.splitlines()) <= set(needed)


def test_zip_size(original):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in original.glob("*.tflite"):
            archive.write(path, path.name)
    assert zip_size(original) == len(buffer.getvalue())


# Damage


def test_every_modified_file_is_rejected_and_named(bundle):
    for name, data in files_of(bundle).items():
        middle = len(data) // 2
        damaged = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        (bundle / name).write_bytes(damaged)
        with pytest.raises(ValueError, match="Received: a modified") as caught:
            EnsembleRunner(bundle)
        assert repr(name) in str(caught.value)
        (bundle / name).write_bytes(data)
    EnsembleRunner(bundle).close()


def test_missing_file_is_named(bundle):
    (bundle / "00-a.tflite").unlink()
    with pytest.raises(ValueError, match=r"no readable '00-a\.tflite'"):
        EnsembleRunner(bundle)


def edit(bundle, change):
    write_folder(bundle, edited(files_of(bundle), change))


@pytest.mark.parametrize(
    "name", ["../outside", "edge/../../outside", "..\\outside", "C:\\outside", "a\0b"]
)
def test_path_out_of_the_bundle_is_rejected(bundle, name):
    outside = bundle.parent / "outside"
    outside.write_text("secret")
    edit(bundle, lambda m: m["files"].update({name: sha256(outside)}))
    with pytest.raises(ValueError, match="inside the bundle") as caught:
        EnsembleRunner(bundle)
    assert repr(name) in str(caught.value)


def test_absolute_path_is_rejected(bundle):
    inside = bundle / "requirements.txt"
    edit(bundle, lambda m: m["files"].update({str(inside): sha256(inside)}))
    with pytest.raises(ValueError, match="inside the bundle"):
        EnsembleRunner(bundle)


def test_link_out_of_the_bundle_is_rejected(bundle):
    outside = bundle.parent / "outside.tflite"
    shutil.move(bundle / "00-a.tflite", outside)
    (bundle / "00-a.tflite").symlink_to(outside)
    with pytest.raises(ValueError, match=r"inside the bundle.*'00-a\.tflite'"):
        EnsembleRunner(bundle)


def test_unknown_format_is_rejected(bundle):
    edit(bundle, lambda m: m.update(format_version=99))
    with pytest.raises(ValueError, match=r"version 1.*format_version=99"):
        EnsembleRunner(bundle)


# Where it is written


def test_earlier_bundle_and_empty_directory_are_replaced(bundle, tmp_path):
    (bundle / "edge" / "__pycache__").mkdir()
    (bundle / "edge" / "__pycache__" / "cli.pyc").write_bytes(b"")
    empty = tmp_path / "empty"
    empty.mkdir()
    for directory in (bundle, empty):
        written = write_bundle(directory, members()[:1])
        assert written == directory
        assert [m.name for m in verify(written).members] == ["a"]
        assert not (written / "02-e.tflite").exists()
    assert sorted(os.listdir(tmp_path)) == ["bundle", "empty"]


def test_other_files_are_not_replaced(bundle, tmp_path):
    file, folder, other = (tmp_path / name for name in ("file", "folder", "other"))
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    shutil.copytree(folder, other)
    (other / "manifest.json").write_text("{}")
    for number, text in enumerate(("", "{}", "[]", '{"files": []}', "[" * 100_000)):
        (tmp_path / f"no-{number}").mkdir()
        (tmp_path / f"no-{number}" / "manifest.json").write_text(text)
    (bundle / "mine.txt").write_text("mine")
    before = files_of(tmp_path)
    for target in (file, folder, other, bundle, *tmp_path.glob("no-*")):
        with pytest.raises(ValueError, match="Expected"):
            write_bundle(target, members())
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": []}, "Expected members"),
        ({"members": members()[:1] * 2}, "unique names"),
        ({"members": [BundleMember("a", b"junk")]}, "Expected a .tflite model"),
        ({"members": [BundleMember("a", "absent.tflite")]}, "absent.tflite"),
        ({"combination": "median"}, "median"),
        ({"combination": "weights"}, "3 non-negative weights"),
        ({"weights": [1, 0, 0]}, "omit them"),
        ({"class_names": ["x"]}, "3 class names"),
        ({"class_names": [1, 2, 3]}, "class_names"),
        ({"preprocessing": {"scale": 0}}, "scale"),
        ({"preprocessing": {"mean": [1, 2, 3]}}, "mean"),
        ({"accuracies": {"a": float("inf")}}, "JSON"),
    ],
)
def test_bad_input_writes_nothing(bundle, tmp_path, arguments, message):
    before = files_of(tmp_path)
    for target in (bundle, tmp_path / "new" / "bundle"):
        with pytest.raises(ValueError, match=message):
            write_bundle(target, **{"members": members()} | arguments)
    assert files_of(tmp_path) == before
    assert os.listdir(tmp_path) == ["bundle"]


def test_members_of_different_shapes(tmp_path):
    other = BundleMember("other", tiny_tflite(shape=(5, 5, 2)))
    with pytest.raises(ValueError, match="the same input shape"):
        write_bundle(tmp_path / "bundle", [*members(), other])


def test_earlier_bundle_survives_a_failure(bundle, tmp_path, monkeypatch):
    before = files_of(tmp_path)

    class Broken(EnsembleRunner):
        def predict(self, x):
            raise RuntimeError("it does not run")

    monkeypatch.setattr(writer, "EnsembleRunner", Broken)
    with pytest.raises(RuntimeError, match="does not run"):
        write_bundle(bundle, members())
    assert files_of(tmp_path) == before


def test_earlier_bundle_comes_back_if_the_swap_fails(bundle, tmp_path, monkeypatch):
    before, rename = files_of(tmp_path), os.rename

    def cannot(a, b):
        raise OSError("not on this system")

    def fail(source, target):
        if Path(source).name == "new":
            raise OSError("no space")
        rename(source, target)

    monkeypatch.setattr(atomic, "_exchange", cannot)
    monkeypatch.setattr(atomic.os, "rename", fail)
    with pytest.raises(OSError, match="no space"):
        write_bundle(bundle, members())
    assert files_of(tmp_path) == before


def test_damaged_earlier_bundle_is_replaced(bundle):
    edit(bundle, lambda m: m.pop("members") and m.update(format_version=99))
    verify(write_bundle(bundle, members()))
    for name in ("manifest.sha256", "00-a.tflite"):
        (bundle / name).write_bytes(b"damage")
        verify(write_bundle(bundle, members()))


# The digest


def test_the_digest_is_the_hash_of_the_manifest(original, bundle):
    manifest = verify(original)
    assert manifest.digest == sha256(original / "manifest.json")
    line = f"{manifest.digest}  manifest.json\n"
    assert (original / "manifest.sha256").read_text() == line
    verify(write_bundle(bundle, members(), preprocessing={"mean": 1, "scale": 64}))


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_sha256sum_checks_the_manifest(bundle):
    command = ["sha256sum", "-c", "manifest.sha256"]
    assert subprocess.run(command, cwd=bundle, capture_output=True).returncode == 0
    (bundle / "manifest.json").write_text("damage")
    assert subprocess.run(command, cwd=bundle, capture_output=True).returncode == 1


@pytest.mark.parametrize("text", ["", "0" * 64, "0" * 64 + "  manifest.json\n", None])
def test_checksum_that_is_missing_or_wrong(bundle, text):
    path = bundle / "manifest.sha256"
    path.unlink() if text is None else path.write_text(text)
    for read in (EnsembleRunner, verify, Manifest.read):
        with pytest.raises(ValueError, match=r"manifest\.sha256"):
            read(bundle)


@pytest.mark.parametrize("name", ["numpy.py", "edge/numpy/__init__.py", "link"])
def test_verify_rejects_unlisted_files(bundle, tmp_path, name):
    path = bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("") if name != "link" else path.symlink_to(tmp_path)
    with pytest.raises(ValueError, match=f"only the exported files.*'{name}'"):
        verify(bundle)
    EnsembleRunner(bundle).close()
