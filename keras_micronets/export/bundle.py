"""The folder, or the zip, that goes to the device."""

import hashlib
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from keras_micronets._version import __version__
from keras_micronets.edge.bundle.files import BundleFiles
from keras_micronets.edge.bundle.manifest import (
    FILE_NAME,
    Combination,
    Manifest,
    MemberEntry,
)
from keras_micronets.edge.early_exit import EarlyExit
from keras_micronets.edge.ensemble import tensor_specs
from keras_micronets.edge.member import Member
from keras_micronets.edge.preprocessing import Preprocessing
from keras_micronets.edge.runner import EnsembleRunner
from keras_micronets.export.size import gzip_size

REQUIREMENTS = "ai-edge-litert >=2.1, <3\nnumpy >=2.0, <3\n"


@dataclass(frozen=True)
class BundleMember:
    """Hold one member to be written into a bundle.

    Args:
        name: Name of the member, unlike any other's.
        model: Bytes of a `.tflite` file, or the path of one.
        from_logits: Whether the model puts out logits. Defaults to `False`.
        metadata: Whatever else is worth knowing (sparsity, epoch), as JSON values.
            Defaults to an empty dict.
    """

    name: str
    model: bytes | str | os.PathLike
    from_logits: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)


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
) -> Path:
    """Write a bundle: a folder, or one `.zip`, that runs on a device as it is.

    It holds one `.tflite` file a member, `manifest.json`, the few files of the
    runner, `__main__.py` and `requirements.txt`. The bundle is loaded and run once
    before it takes its place, as a whole or not at all. The same members give the
    same bytes.

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

    Returns:
        Path of the bundle.

    Raises:
        ValueError: If something else is at `directory`, a model cannot be run, or
            the members do not go together. Nothing is written then.

    Example:

    ```python
    members = [BundleMember("small", "small.tflite", from_logits=True)]
    write_bundle("bundle", members, class_names=["cat", "dog"])
    ```
    """
    target = Path(directory).resolve()
    _check_replaceable(target)
    models = {f"{i:02d}-{_slug(m.name)}.tflite": m for i, m in enumerate(members)}
    contents = {name: _read(member.model) for name, member in models.items()}
    entries = [_entry(file, contents[file], m) for file, m in models.items()]
    contents |= _runner_files()
    manifest = Manifest(
        members=tuple(entries),
        files={n: hashlib.sha256(data).hexdigest() for n, data in contents.items()},
        class_names=class_names,
        preprocessing=_preprocessing(preprocessing),
        combination=Combination(combination, weights),
        accuracies=accuracies or {},
        early_exit=early_exit,
        package_version=__version__,
        created_by="keras_micronets.export.write_bundle",
    )
    contents[FILE_NAME] = manifest.to_json().encode()
    Manifest.from_json(manifest.to_json())  # what no reader would take is not written
    _write_whole(target, contents)
    return Path(directory)


def zip_bytes(directory: str | os.PathLike) -> int:
    """Return the size in bytes of a bundle's models together as one deflated zip."""
    buffer = io.BytesIO()
    with (
        BundleFiles(directory) as files,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for member in Manifest.read_from(files).members:
            archive.writestr(member.file, files.read(member.file))
    return len(buffer.getvalue())


def _slug(name):
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]


def _read(model):
    if isinstance(model, bytes):
        return model
    try:
        return Path(model).read_bytes()
    except OSError as error:
        raise ValueError(
            f"Expected a .tflite file. Received: {model} ({error.strerror})."
        ) from None


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
        "__main__.py": Path(__file__).with_name("bundle_main.py").read_bytes(),
        "requirements.txt": REQUIREMENTS.encode(),
    }


def _preprocessing(value):
    return value if isinstance(value, Preprocessing) else Preprocessing(**(value or {}))


def _check_replaceable(target):
    if not target.exists():
        return
    if target.is_dir() == _is_zip(target):
        raise ValueError(
            "Expected a directory, or a path that ends in .zip and is no directory. "
            f"Received: {target}."
        )
    with BundleFiles(target) as opened:
        files = {name for name in opened.names() if "__pycache__" not in name}
    if not files and target.is_dir() and not any(target.iterdir()):
        return
    known = {FILE_NAME, *Manifest.read(target).files} if FILE_NAME in files else set()
    if not known or files - known:
        raise ValueError(
            "Expected a new path, an empty directory, or an earlier bundle and nothing "
            "else; choose another, or move away what is there. "
            f"Received: {target}, with {sorted(files - known)[:5]}."
        )


def _write_whole(target, contents):
    """Put the files beside the target, try them, then swap the two."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        (_write_zip if _is_zip(target) else _write_folder)(new, contents)
        with EnsembleRunner(new) as runner:
            runner.predict(np.zeros((1, *runner.members[0].input_shape), "float32"))
        _swap(target, new, old)


def _is_zip(target):
    return target.suffix.lower() == ".zip"


def _write_folder(folder, contents):
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _write_zip(path, contents):
    with zipfile.ZipFile(path, "x") as archive:
        for name, data in sorted(contents.items()):
            entry = zipfile.ZipInfo(name)  # its date is fixed, in 1980
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=9)


def _swap(target, new, old):
    if target.is_dir():
        os.rename(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
