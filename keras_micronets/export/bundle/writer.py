"""The folder, or the zip, that goes to the device."""

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from keras_micronets._version import __version__
from keras_micronets.edge.bundle.files import BundleFiles
from keras_micronets.edge.bundle.manifest import Combination, Manifest, MemberEntry
from keras_micronets.edge.bundle.signature import (
    CHECKSUM,
    MANIFEST,
    SIGNATURE,
    UNLISTED,
    checksum,
    sign,
)
from keras_micronets.edge.early_exit import EarlyExit
from keras_micronets.edge.ensemble import tensor_specs
from keras_micronets.edge.member import Member
from keras_micronets.edge.preprocessing import Preprocessing
from keras_micronets.edge.runner import EnsembleRunner
from keras_micronets.export.atomic import is_zip, write_whole
from keras_micronets.export.bundle.member import BundleMember
from keras_micronets.export.flatbuffer import gzip_size

REQUIREMENTS = "ai-edge-litert >=2.1, <3\nnumpy >=2.0, <3\n"


def write_bundle(
    directory: str | os.PathLike,
    members: Sequence[BundleMember],
    *,
    combination: str = "mean",
    weights: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | dict | None = None,
    accuracies: dict[str, Any] | None = None,
    early_exit: EarlyExit | None = None,
    signing_key: str | os.PathLike | bytes | None = None,
) -> Path:
    """Write a bundle: a folder, or one `.zip`, that runs on a device as it is.

    It holds one `.tflite` file a member, `manifest.json` and its checksum, the few
    files of the runner, `__main__.py` and `requirements.txt`. The bundle is loaded
    and run once before it takes its place, as a whole or not at all. The same
    members give the same bytes.

    Args:
        directory: Where the bundle goes; a path that ends in `.zip` becomes one
            zip. An empty directory, or an earlier bundle of the same form with
            nothing else in it, is replaced.
        members: At least one `BundleMember`; all of one input and output shape.
        combination: `"mean"`, `"logit"`, `"vote"` or `"weights"`, see `edge.combine`.
            Defaults to `"mean"`.
        weights: One a member, for `"weights"`. Defaults to `None`.
        class_names: One a class. Defaults to `None`.
        preprocessing: `Preprocessing`, or its arguments as a dict: what the device
            does to raw inputs, `(x - mean) / scale`. Defaults to `None`, nothing.
        accuracies: What was measured, as JSON values, with a sentence that says
            how. Defaults to `None`.
        early_exit: When a sample needs no more members, see
            `selection.choose_early_exit`. Defaults to `None`: all are asked.
        signing_key: Path of an Ed25519 private key in PEM, not encrypted, or the
            bytes of one, with which the bundle is signed (this needs
            `pip install cryptography`). Defaults to `None`: it is not signed.

    Returns:
        Path of the bundle.

    Raises:
        ValueError: If something else is at `directory`, a model cannot be run, the
            members do not go together, or the key is none. Nothing is written then.

    Example:

    ```python
    members = [BundleMember("small", "small.tflite", from_logits=True)]
    write_bundle("bundle", members, class_names=["cat", "dog"])
    ```
    """
    target = Path(directory).resolve()
    _check_replaceable(target)
    models = {f"{i:02d}-{_slug(m.name)}.tflite": m for i, m in enumerate(members)}
    contents = {name: member.read() for name, member in models.items()}
    entries = [_entry(file, contents[file], m) for file, m in models.items()]
    contents |= _runner_files()
    manifest = Manifest(
        members=tuple(entries),
        files={n: hashlib.sha256(data).hexdigest() for n, data in contents.items()},
        class_names=class_names,
        preprocessing=Preprocessing.of(preprocessing),
        combination=Combination(combination, weights),
        accuracies=accuracies or {},
        early_exit=early_exit,
        package_version=__version__,
        created_by="keras_micronets.export.write_bundle",
    )
    contents |= _manifest_files(manifest, signing_key)
    write_whole(target, contents, check=_run_once)
    return Path(directory)


def zip_size(path: str | os.PathLike) -> int:
    """Return the size in bytes of a bundle's models together as one deflated zip."""
    buffer = io.BytesIO()
    with (
        BundleFiles(path) as files,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for member in Manifest.read_from(files).members:
            archive.writestr(member.file, files.read(member.file))
    return len(buffer.getvalue())


def _slug(name):
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]


def _entry(file, data, member):
    loaded = Member(data, name=member.name, from_logits=member.from_logits)
    taken, given = tensor_specs(loaded)
    return MemberEntry(
        name=member.name,
        file=file,
        from_logits=member.from_logits,
        input=taken,
        output=given,
        bytes=len(data),
        gzip_bytes=gzip_size(data),
        metadata=member.metadata,
    )


def _runner_files():
    edge = Path(str(resources.files("keras_micronets.edge")))
    code = {
        f"edge/{path.relative_to(edge).as_posix()}": path.read_bytes()
        for path in sorted(edge.rglob("*.py"))
    }
    return {
        **code,
        "__main__.py": Path(__file__).with_name("main.py").read_bytes(),
        "requirements.txt": REQUIREMENTS.encode(),
    }


def _manifest_files(manifest, signing_key):
    # What no reader would take is not written, and numbers are as a reader has them.
    text = Manifest.from_json(manifest.to_json()).to_json().encode()
    files = {MANIFEST: text, CHECKSUM: checksum(text)}
    if signing_key is not None:
        files[SIGNATURE] = sign(text, signing_key=signing_key)
    return files


def _run_once(bundle):
    with EnsembleRunner(bundle) as runner:
        runner.predict(np.zeros((1, *runner.members[0].input_shape), "float32"))


def _check_replaceable(target):
    if not target.exists():
        return
    if target.is_dir() == is_zip(target):
        raise ValueError(
            "Expected a directory, or a path that ends in .zip and is no directory. "
            f"Received: {target}."
        )
    with BundleFiles(target) as opened:
        files = {name for name in opened.names() if "__pycache__" not in name}
        if not files and target.is_dir() and not any(target.iterdir()):
            return
        known = _known(opened) if MANIFEST in files else set()
    if not known or files - known:
        raise ValueError(
            "Expected a new path, an empty directory, or an earlier bundle and nothing "
            "else; choose another, or move away what is there. "
            f"Received: {target}, with {sorted(files - known)[:5]}."
        )


def _known(opened):
    """The files of a bundle of any format version, sound or damaged."""
    try:
        manifest = json.loads(opened.read(MANIFEST))
        return {*UNLISTED, *manifest["files"]} if manifest["format_version"] else set()
    except (ValueError, RecursionError, TypeError, KeyError):
        return set()
