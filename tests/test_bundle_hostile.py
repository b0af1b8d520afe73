import contextlib
import json
import os
import random
import re
import stat
import tracemalloc
import zipfile

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hostile_bundles import (
    damaged,
    edited,
    files_of,
    forged,
    sealed,
    write_folder,
    write_zip,
)
from tiny_tflite import CLASSES, samples, tiny_tflite

from keras_micronets.edge import EnsembleRunner, Manifest, verify
from keras_micronets.edge.bundle import files
from keras_micronets.edge.bundle.files import BundleFiles
from keras_micronets.export import BundleMember, write_bundle

MODEL = "00-a.tflite"
FORMS = pytest.mark.parametrize("write", [write_folder, write_zip])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    members = [BundleMember(n, tiny_tflite(i)) for i, n in enumerate("ab")]
    preprocessing = {"mean": 1.5, "scale": [2.0, 3.0]}
    return write_bundle(
        tmp_path_factory.mktemp("hostile") / "bundle",
        members,
        preprocessing=preprocessing,
    )


@pytest.fixture(scope="module")
def contents(original):
    return files_of(original)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """Return the files of a bundle and the public key of its signer."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(b"a" * 32)
    path = write_bundle(
        tmp_path_factory.mktemp("signed") / "bundle",
        [BundleMember("a", tiny_tflite())],
        signing_key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return files_of(path), key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bundle"


def refuse(path, message):
    """Check that a bundle is rejected and that nothing is written."""
    before = sorted(path.parent.rglob("*"))
    for read in (EnsembleRunner, verify):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert "Expected" in str(caught.value)
        assert "Received" in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before


@FORMS
def test_the_undamaged_bundle_is_accepted(write, path, contents):
    assert len(verify(write(path, forged(contents, "x", b"more"))).files) > 5


# Names


ESCAPES = ["../x", "edge/../../x", "/etc/passwd", "C:x", "C:/x", "a\\b", "./x", "a//b"]


@FORMS
@pytest.mark.parametrize(
    "name", [*ESCAPES, "a\0b", "", ".", "edge", "\ud800", "n" * 9999]
)
def test_names_in_the_manifest(write, path, contents, name):
    changed = edited(contents, lambda m: m["files"].update({name: ""}))
    refuse(write(path, changed), "inside the bundle|no readable|a modified")


@pytest.mark.parametrize("name", ESCAPES)
def test_names_in_a_zip(path, contents, name):
    refuse(write_zip(path, contents, (name, b"")), "outside the bundle")


def test_name_with_nul_in_a_zip(path, contents):
    write_zip(path, contents, ("x!y", b""))
    path.write_bytes(path.read_bytes().replace(b"x!y", b"x\0y"))
    refuse(path, "outside the bundle")


def test_several_files_with_the_same_name(path, contents):
    with pytest.warns(UserWarning, match="Duplicate"):
        write_zip(path, contents, (MODEL, b"other"))
    refuse(path, "several files with the same name")


def test_too_many_files(path, contents):
    refuse(write_zip(path, contents, *((str(i), b"") for i in range(1000))), "1,000")


@FORMS
def test_too_many_files_in_the_manifest(write, path, contents):
    many = {str(i): "" for i in range(1000)}
    changed = edited(contents, lambda m: m["files"].update(many))
    refuse(write(path, changed), "at most 1,000 files")


# Links, pipes and devices


@pytest.mark.parametrize("name", [MODEL, "edge"])
def test_link_in_a_folder(path, contents, name):
    write_folder(path, contents)
    (path / name).rename(path / "moved")
    (path / name).symlink_to(path / "moved")
    refuse(path, "not a link")


def test_link_to_a_bundle_is_fine(path, original):
    path.symlink_to(original)
    verify(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_link_in_a_zip(path, contents, kind):
    link = zipfile.ZipInfo("link")
    link.external_attr = (kind | 0o777) << 16
    refuse(
        write_zip(path, contents, (link, b"/etc/passwd")), "'link': not a regular file"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes(path, contents):
    write_folder(path, contents)
    (path / MODEL).unlink()
    os.mkfifo(path / MODEL)
    refuse(path, "not a regular file")
    os.mkfifo(path.with_name("pipe"))
    refuse(path.with_name("pipe"), "not a folder or file")


class Endless:
    def read(self, size):
        return bytes(size)


def test_file_that_grows():
    with pytest.raises(ValueError, match="a size other than the declared 5,000,000"):
        files._read(Endless(), 5_000_000, 5_000_000)


# Sizes


def test_large_file_in_a_folder(path, contents):
    write_folder(path, contents)
    os.truncate(path / MODEL, files.MAX_FILE_BYTES + 1)  # a hole, it takes no space
    with memory_below(2**22):
        refuse(path, "bytes, more than 268,435,456")


@FORMS
def test_large_manifest(write, path, contents):
    padded = contents | {"manifest.json": contents["manifest.json"] + b" " * 2**20}
    refuse(write(path, padded), "bytes, more than 1,048,576")


@FORMS
def test_large_in_total(write, path, contents, monkeypatch):
    write(path, contents)
    sizes = [len(data) for data in contents.values()]
    monkeypatch.setattr(files, "MAX_BYTES", sum(sizes) - 1)
    refuse(path, "bytes")
    monkeypatch.setattr(files, "MAX_BYTES", sum(sizes))
    verify(path)


@contextlib.contextmanager
def memory_below(limit):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def declare(path, name, size):
    """Write another size into the header, and the table, of a zip."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset
        table = data.rindex(name.encode()) - 46
    data[start + 22 : start + 26] = data[table + 24 : table + 28] = size.to_bytes(
        4, "little"
    )
    path.write_bytes(data)


def test_zip_bomb_with_declared_size(path, contents):
    write_zip(path, contents)
    declare(path, MODEL, files.MAX_FILE_BYTES + 1)
    refuse(path, "over 268,435,456 bytes")


@pytest.mark.parametrize("size", [10, 50_000_000])
def test_zip_bomb_with_false_size(path, contents, size):
    write_zip(path, forged(contents, MODEL, bytes(20_000_000)))
    declare(path, MODEL, size)
    with memory_below(50_000_000):
        refuse(path, f"no readable '{MODEL}'")


def test_zip_bomb_is_stopped_while_reading(path):
    write_zip(path, {"bomb": bytes(50_000_000)})
    with BundleFiles(path) as opened, memory_below(10_000_000):
        opened._archive.getinfo("bomb").file_size = 1_000_000  # no longer checked
        with pytest.raises(ValueError, match="no readable 'bomb'"):
            opened.read("bomb")


def test_large_table_of_contents(path):
    write_zip(path, {f"{i}{'x' * 50_000}": b"" for i in range(30)})
    with memory_below(2**22):
        refuse(path, "table of contents")


# Properties of a zip


def test_encrypted(path, contents):
    write_zip(path, contents)
    data = bytearray(path.read_bytes())
    data[data.rindex(MODEL.encode()) - 46 + 8] |= 1
    path.write_bytes(data)
    refuse(path, "encrypted")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_odd_compression(path, contents, compression):
    refuse(write_zip(path, contents, compression=compression), "deflate")


def test_truncated_zip(path, contents):
    data = write_zip(path, contents).read_bytes()
    for length in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        refuse(path, "Expected a bundle")


# Manifests


@FORMS
@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"{}", b"1e999"],
)
def test_no_manifest(write, path, contents, data):
    refuse(write(path, sealed(contents, data)), "Expected a manifest|utf-8")


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["members", 0, "input", "shape"], [10**30, 1, 1]),
        (["members", 0, "input", "shape"], [2**20] * 3),
        (["members", 0, "input", "shape"], [-1, 6, 2]),
        (["members", 0, "input", "shape"], [1] * 1000),
        (["members", 0, "input", "shape"], [6, 6, 10**4000]),
        (["members", 0, "input", "shape"], nested(600)),
        (["members", 0, "input", "dtype"], "object"),
        (["members", 0, "output", "scale"], 1e999),
        (["members", 0, "output", "scale"], -1.0),
        (["members", 0, "output", "zero_point"], 2**70),
        (["members", 0, "name"], nested(500)),
        (["members", 1, "file"], MODEL),
        (["format_version"], nested(500)),
        (["preprocessing", "mean"], 1e300),
        (["preprocessing", "mean"], 10**300),
        (["preprocessing", "scale"], 1e-300),
        (["preprocessing", "scale"], [1.0] * 100_000),
        (["combination", "rule"], "x" * 100_000),
        (["combination", "weights"], [1e308, -1e308]),
        (["class_names"], ["x"] * 100_000),
        (["accuracies", "a"], 1e999),
        (["accuracies", "a"], nested(32)),
        (["accuracies", "a"], nested(500)),
        (["accuracies", "a"], nested(900)),
    ],
)
def test_absurd_values(path, contents, keys, value):
    def change(manifest):
        *parents, last = keys
        for key in parents:
            manifest = manifest[key]
        manifest[last] = value

    changed = edited(contents, change)
    write_folder(path, changed)
    with pytest.raises(ValueError, match=r"Expected|manifest\.json: "):
        EnsembleRunner(path)


@FORMS
@pytest.mark.parametrize("end", ["input", "output"])
def test_members_that_differ_from_their_model(write, path, contents, end):
    def change(manifest):
        for member in manifest["members"]:
            member[end]["shape"] = [3, 6, 2] if end == "input" else [4]

    write(path, edited(contents, change))
    with pytest.raises(ValueError, match="to match the manifest"):
        EnsembleRunner(path)


# Models with a matching hash


@FORMS
@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.3, 0.6, 0.9])
def test_truncated_model(write, path, contents, share):
    model = contents[MODEL][: int(share * len(contents[MODEL]))]
    write(path, forged(contents, MODEL, model))
    with pytest.raises(ValueError, match=r"Expected a \.tflite model"):
        EnsembleRunner(path)


@FORMS
@pytest.mark.parametrize("start", [b"", b"\x1c\0\0\0TFL3"])
def test_random_model(write, path, contents, start):
    write(path, forged(contents, MODEL, start + random.Random(0).randbytes(999)))
    with pytest.raises(ValueError, match=r"Expected a \.tflite model"):
        EnsembleRunner(path)


def test_model_that_fails_while_it_runs(original, monkeypatch):
    def fail(_):
        raise RuntimeError("no such operation")

    with EnsembleRunner(original) as runner:
        monkeypatch.setattr(type(runner.members[0]._interpreter), "invoke", fail)
        with pytest.raises(ValueError, match=r"Received: 'a'\. LiteRT says: no such"):
            runner.predict(samples(1))


# Random damage


AMOUNTS = pytest.mark.parametrize(
    "n", [300, pytest.param(10_000, marks=pytest.mark.slow)]
)


def answers(path, x, **options):
    """Return the predictions of a bundle, or `None` if it is rejected."""
    try:
        with EnsembleRunner(path, **options) as runner, np.errstate(all="ignore"):
            return runner.predict(x, parallel=False)
    except ValueError as error:
        if not re.search(r"Expected|manifest\.json: ", str(error)):
            raise


@AMOUNTS
def test_damaged_zips(n, path, contents, original):
    x, rng = samples(2), random.Random(n)
    data, expected = write_zip(path, contents).read_bytes(), answers(original, x)
    refused = 0
    for _ in range(n):
        path.write_bytes(damaged(data, rng))
        received = answers(path, x)
        refused += received is None
        assert received is None or np.array_equal(received, expected)
    assert n / 2 < refused < n


@AMOUNTS
def test_damaged_files(n, path, contents, original):
    """A modified file is rejected."""
    x, rng = samples(2), random.Random(n)
    write_folder(path, contents)
    names = sorted(contents)
    for _ in range(n):
        name = rng.choice(names)
        data = damaged(contents[name], rng)
        (path / name).write_bytes(data)
        assert (answers(path, x) is None) == (data != contents[name])
        (path / name).write_bytes(contents[name])


@AMOUNTS
@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "manifest.sig"])
def test_damaged_files_about_the_manifest(n, name, path, signed):
    contents, public_key = signed
    x, rng = samples(2), random.Random(n)
    write_folder(path, contents)
    assert answers(path, x, public_key=public_key) is not None
    for i in range(n):
        data = damaged(contents[name], rng)
        (path / name).write_bytes(data)
        refused = [answers(path, x, public_key=public_key) is None]
        if name != "manifest.sig" or i < 30:
            refused += [answers(path, x) is None]
        changed = data != contents[name]
        assert refused == [changed, changed and name != "manifest.sig"][: len(refused)]
    assert files_of(path.parent).keys() == {f"bundle/{name}" for name in contents}


@AMOUNTS
def test_forged_manifests(n, path, contents, original):
    """Without a signature a manifest may be modified, but its values stay valid."""
    x, rng = samples(2), random.Random(n)
    write_folder(path, contents)
    before, expected, taken = Manifest.read(path), answers(original, x), 0
    text = contents["manifest.json"]
    begin, end = text.index(b'"files"'), text.index(b'"class_names"')
    for _ in range(n):
        # Before the hashes or after them: otherwise most damage would be in hashes.
        before_them = damaged(text[:begin], rng) + text[begin:]
        after_them = text[:end] + damaged(text[end:], rng)
        changed = rng.choice([before_them, after_them])
        with contextlib.suppress(ValueError):
            changed = (json.dumps(json.loads(changed), indent=2) + "\n").encode()
        write_folder(path, sealed({}, changed))
        received = answers(path, x)
        if received is None:
            continue
        taken += 1
        assert received.shape == (2, CLASSES)
        after = Manifest.read(path)
        if after.preprocessing == before.preprocessing and [
            m.from_logits for m in after.members
        ] == [m.from_logits for m in before.members]:
            np.testing.assert_array_equal(received, expected)
    assert n / 50 < taken < n / 2
