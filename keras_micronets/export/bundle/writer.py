"""Hold a member that is written into a bundle."""

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

from keras_micronets._version import __version__
from keras_micronets.edge.alarm import Alarm
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
from keras_micronets.edge.member import Member
from keras_micronets.edge.preprocessing import Preprocessing
from keras_micronets.edge.runner import EnsembleRunner
from keras_micronets.edge.tasks import SpreadScale
from keras_micronets.edge.tensors import zero_samples
from keras_micronets.export.atomic import is_zip, write_whole
from keras_micronets.export.flatbuffer import gzip_size, read_bytes

__all__ = ["REQUIREMENTS", "BundleMember", "write_bundle", "zip_size"]


@dataclass(frozen=True)
class BundleMember:
    """Hold one member to be written into a bundle.

    Args:
        name: Unique name of the member.
        model: Bytes of a `.tflite` file, or its path.
        from_logits: Whether the model's output is logits. Defaults to `False`.
        task: What the model predicts, one of `edge.TASKS`. Defaults to `"multiclass"`.
        metadata: Further facts as JSON values, such as sparsity and epoch. Defaults
            to an empty dictionary.
        loaded: A `Member` that runs these bytes with this name, so that they are not
            loaded again. Defaults to `None`.

    Example:

    ```python
    member = keras_micronets.export.BundleMember("small", "small.tflite")
    ```
    """

    name: str
    model: bytes | str | os.PathLike
    from_logits: bool = False
    task: str = field(default="multiclass", kw_only=True)
    metadata: dict[str, Any] = field(default_factory=dict)
    loaded: Member | None = field(default=None, compare=False, repr=False)

    def read(self) -> bytes:
        """Return the bytes of the model; raise a `ValueError` without such a file."""
        if isinstance(self.model, bytes):
            return self.model
        return read_bytes(self.model)

    def load(self, content: bytes) -> Member:
        """Return the `Member` that runs the bytes that `read` returned."""
        if self.loaded is not None:
            return self.loaded
        return Member(
            content, name=self.name, from_logits=self.from_logits, task=self.task
        )


REQUIREMENTS = "ai-edge-litert >=2.1, <3\nnumpy >=2.0, <3\n"


def write_bundle(
    path: str | os.PathLike,
    members: Sequence[BundleMember],
    *,
    combination: str = "mean",
    weights: Sequence[float] | None = None,
    temperature: float = 1.0,
    spread_scale: SpreadScale | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | dict | None = None,
    accuracies: dict[str, Any] | None = None,
    early_exit: EarlyExit | None = None,
    alarm: Alarm | None = None,
    signing_key: str | os.PathLike | bytes | None = None,
) -> Path:
    """Write a bundle, a folder or one `.zip`, that runs on a device without changes.

    It holds one `.tflite` file per member, `manifest.json` and its checksum, the
    runner's files, `__main__.py` and `requirements.txt`. The written bundle is verified
    and run once by `EnsembleRunner` before it replaces an older one, as a whole or not
    at all. Equal members give equal bytes.

    Args:
        path: Path of the bundle; one that ends in `.zip` becomes a zip. An empty
            directory, or an earlier bundle of the same form with no other files in
            it, is replaced.
        members: At least one `BundleMember`, all of the same inputs, output shape and
            task.
        combination: `"mean"`, `"logit"`, `"vote"`, `"weights"` or `"median"`, see
            `edge.combine`. Defaults to `"mean"`.
        weights: One per member, for `"weights"`. Defaults to `None`.
        temperature: Temperature that the runner applies to the combined probabilities,
            see `edge.combine`. Defaults to `1.0`, none.
        spread_scale: How the runner scales the members' spread, for tasks that predict
            numbers, see `selection.choose_spread_scale`. Defaults to `None`, not.
        class_names: One per class, label or predicted number, see `edge.Manifest`.
            Defaults to `None`.
        preprocessing: `Preprocessing`, or a dictionary of its arguments: the device
            computes `(x - mean) / scale` from raw inputs. Defaults to `None`, nothing.
        accuracies: Scores as JSON values, with a sentence on how they were measured.
            Defaults to `None`.
        early_exit: When a sample needs no further members, see
            `selection.choose_early_exit`. Defaults to `None`, never.
        alarm: Which samples are anomalies, see `edge.choose_alarm`; for the task
            `"reconstruction"`. Defaults to `None`, no alarm.
        signing_key: Path, or bytes, of an unencrypted Ed25519 private key in PEM that
            signs the bundle; needs `pip install cryptography`. Defaults to `None`, no
            signature.

    Returns:
        Path of the bundle.

    Raises:
        ValueError: If other files are at `path`, a model cannot be run, the members do
            not fit together, or the key is invalid. Nothing is written then.

    Example:

    ```python
    report = keras_micronets.export_tflite(
        model, "small.tflite", representative_data=x_train
    )
    members = [keras_micronets.export.BundleMember("small", report.path)]
    keras_micronets.export.write_bundle("bundle", members)
    ```
    """
    target = Path(path).resolve()
    _check_replaceable(target)
    models = {f"{i:02d}-{_slug(m.name)}.tflite": m for i, m in enumerate(members)}
    contents = {name: member.read() for name, member in models.items()}
    entries = [_entry(file, contents[file], m) for file, m in models.items()]
    contents |= _runner_files()
    manifest = Manifest(
        members=tuple(entries),
        files={n: hashlib.sha256(data).hexdigest() for n, data in contents.items()},
        class_names=cast("tuple[str, ...] | None", class_names),
        preprocessing=Preprocessing.of(preprocessing),
        combination=Combination(
            combination,
            None if weights is None else tuple(weights),
            float(temperature),
            common_task(members),
            spread_scale,
        ),
        accuracies=accuracies or {},
        early_exit=early_exit,
        alarm=alarm,
        package_version=__version__,
        created_by="keras_micronets.export.write_bundle",
    )
    contents |= _manifest_files(manifest, signing_key)
    write_whole(target, contents, check=_run_once)
    return Path(path)


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


def common_task(members: Sequence[BundleMember]) -> str:
    """Return the task of all members, or raise a `ValueError` if they differ."""
    tasks = {member.name: member.task for member in members}
    if len({*tasks.values()}) > 1:
        raise ValueError(f"Expected members of one task. Received: {tasks}.")
    return next(iter(tasks.values()), "multiclass")


def _slug(name):
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]


def _entry(file, data, member):
    loaded = member.load(data)
    return MemberEntry(
        name=member.name,
        file=file,
        from_logits=member.from_logits,
        input=loaded.input,
        output=loaded.output,
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
    # Read back: a manifest that no reader accepts is not written.
    text = Manifest.from_json(manifest.to_json()).to_json().encode()
    files = {MANIFEST: text, CHECKSUM: checksum(text)}
    if signing_key is not None:
        files[SIGNATURE] = sign(text, signing_key=signing_key)
    return files


def _run_once(bundle):
    # Loads the members again, on purpose: from the written files, by the same code as
    # the device.
    with EnsembleRunner(bundle) as runner:
        runner.predict(zero_samples(runner.members[0].input_shape, 1))


def _check_replaceable(target):
    if not target.exists():
        return
    if target.is_dir() == is_zip(target):
        raise ValueError(
            "Expected a directory, or a path that ends in .zip and is not a directory. "
            f"Received: {target}."
        )
    with BundleFiles(target) as opened:
        files = {name for name in opened.names() if "__pycache__" not in name}
        if not files and target.is_dir() and not any(target.iterdir()):
            return
        known = _known(opened) if MANIFEST in files else set()
    if not known or files - known:
        raise ValueError(
            "Expected a new path, an empty directory, or an earlier bundle without "
            "other files. Choose another path, or move those files. "
            f"Received: {target}, with {sorted(files - known)[:5]}."
        )


def _known(opened):
    """Return the files of a bundle of any format version, valid or damaged."""
    try:
        manifest = json.loads(opened.read(MANIFEST))
        return {*UNLISTED, *manifest["files"]} if manifest["format_version"] else set()
    except (ValueError, RecursionError, TypeError, KeyError):
        return set()
