"""What a model takes in or puts out."""

import dataclasses
import hashlib
import json
import math
import os
import reprlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..combine import check_rule
from ..early_exit import EarlyExit
from ..preprocessing import Preprocessing
from .files import MAX_FILES, BundleFiles
from .from_json import from_json
from .signature import MANIFEST, read_manifest

MAX_VALUES = 2**28
DTYPES = ("float16", "float32", "int8", "uint8", "int16", "int32", "int64")


@dataclass(frozen=True)
class TensorSpec:
    """Say what a model takes in or puts out.

    Args:
        shape: Shape without the batch.
        dtype: NumPy dtype name.
        scale: Real value of one integer step; `0.0` for a float tensor.
            Defaults to `0.0`.
        zero_point: Step that stands for zero. Defaults to `0`.

    Raises:
        ValueError: If no tensor of a small classifier is like this.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    def __post_init__(self):
        whole = len(self.shape) <= 8 and all(0 < n <= MAX_VALUES for n in self.shape)
        if not (
            whole
            and math.prod(self.shape) <= MAX_VALUES
            and self.dtype in DTYPES
            and 0 <= self.scale < math.inf
            and abs(self.zero_point) < 2**31
        ):
            raise ValueError(
                f"Expected at most 8 dimensions, at most {MAX_VALUES:,} values of a "
                f"dtype out of {DTYPES}, a finite scale and a zero point of 32 bits. "
                f"Received: {reprlib.repr(dataclasses.astuple(self))}."
            )


@dataclass(frozen=True)
class Combination:
    """Say how the members' probabilities become one, see `combine`.

    Args:
        rule: `"mean"`, `"logit"`, `"vote"` or `"weights"`. Defaults to `"mean"`.
        weights: One a member, for `"weights"`. Defaults to `None`.
    """

    rule: str = "mean"
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class MemberEntry:
    """Describe one member of a bundle.

    Args:
        name: Name of the member, unlike any other's.
        file: Name of its `.tflite` file, relative to the bundle.
        from_logits: Whether the model puts out logits.
        input: What it takes in.
        output: What it puts out.
        bytes: Size of the file in bytes.
        gzip_bytes: Size of the file in bytes, compressed by gzip.
        metadata: Whatever else is worth knowing (sparsity, epoch), as JSON values.
            Defaults to an empty dict.
    """

    name: str
    file: str
    from_logits: bool
    input: TensorSpec
    output: TensorSpec
    bytes: int
    gzip_bytes: int
    metadata: dict[str, Any] = field(default_factory=dict)


__all__ = ["Combination", "Manifest", "MemberEntry", "TensorSpec"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """Describe a bundle: its files, its members and how to run them.

    Args:
        members: At least one; all of one input and one output shape.
        files: SHA-256 of every file of the bundle but the manifest, its checksum
            and its signature, keyed by the file's name relative to the bundle, with
            forward slashes.
        class_names: One name a class. Defaults to `None`, no names.
        preprocessing: What raw inputs go through. Defaults to nothing.
        combination: How members are combined. Defaults to the mean.
        accuracies: What was measured, as JSON values, with a sentence that says
            how. Defaults to an empty dict.
        early_exit: When a sample needs no more members. Defaults to `None`: all
            members are asked.
        package_version: Version of the package that wrote the bundle.
            Defaults to `""`.
        created_by: What wrote the bundle. Defaults to `""`.
        format_version: Version of this format. Defaults to `FORMAT_VERSION`.

    Raises:
        ValueError: If the parts do not go together.

    Example:

    ```python
    manifest = Manifest.read("bundle")
    print(manifest.members[0].name, manifest.accuracies)
    ```
    """

    members: tuple[MemberEntry, ...]
    files: dict[str, str]
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    combination: Combination = field(default_factory=Combination)
    accuracies: dict[str, Any] = field(default_factory=dict)
    package_version: str = ""
    created_by: str = ""
    format_version: int = FORMAT_VERSION
    early_exit: EarlyExit | None = None

    def __post_init__(self):
        _check_members(self)
        check_rule(self.combination.rule, self.combination.weights, len(self.members))
        _check_class_names(self)
        self.preprocessing.check(self.members[0].input.shape)
        if self.early_exit:
            n_classes = self.members[0].output.shape[0]
            weights = self.combination.weights
            self.early_exit.check(len(self.members), n_classes, weights)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Return the manifest that a JSON text holds.

        Raises:
            ValueError: If the text is no manifest of this format version.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"Expected a manifest in JSON. Received: {error}"
            ) from None
        version = value.get("format_version") if isinstance(value, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(
                f"Expected a manifest of format version {FORMAT_VERSION}; run a bundle "
                "with the runner that came with it, or export it anew. "
                f"Received: format_version={reprlib.repr(version)}."
            )
        return from_json(value, cls, "manifest")

    @property
    def digest(self) -> str:
        """SHA-256 of `manifest.json`, and so of the whole bundle, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the manifest as JSON text; NumPy values become plain ones.

        Raises:
            ValueError: If a number is not finite.
            TypeError: If a free value has no JSON form.
        """
        values = dataclasses.asdict(self)
        return json.dumps(values, indent=2, allow_nan=False, default=_plain) + "\n"

    @classmethod
    def read(
        cls,
        directory: str | os.PathLike,
        *,
        public_key: str | os.PathLike | bytes | None = None,
    ) -> "Manifest":
        """Return the manifest of a bundle. No other file is read but its checksum.

        Args:
            directory: The bundle, a folder or a `.zip`.
            public_key: As for `verify`. Defaults to `None`.

        Raises:
            ValueError: If the bundle has no manifest of this format version, or a
                changed one, or with a public key none that its owner signed.
        """
        with BundleFiles(directory) as files:
            return cls.read_from(files, public_key=public_key)

    @classmethod
    def read_from(
        cls,
        files: BundleFiles,
        *,
        public_key: str | os.PathLike | bytes | None = None,
    ) -> "Manifest":
        """Return the manifest of an open bundle, as `read` does."""
        data = read_manifest(files, public_key=public_key)
        try:
            manifest = cls.from_json(data)
            _check_text(manifest, data)
        except ValueError as error:
            raise ValueError(f"{files.path / MANIFEST}: {error}") from None
        return manifest


def _check_text(manifest, data):
    """One manifest has one text: else it had several digests, and keys twice."""
    if manifest.to_json().encode() != data:
        raise ValueError(
            "Expected the text that `Manifest.to_json` gives. Received: other spaces, "
            "numbers written otherwise, or a key twice."
        )


def _check_members(manifest):
    members = manifest.members
    names = [member.name for member in members]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Expected members, each of its own name. Received: {names}.")
    for end in ("input", "output"):
        shapes = {m.name: getattr(m, end).shape for m in members}
        if len(set(shapes.values())) != 1:
            raise ValueError(
                f"Expected members of one {end} shape. Received: {shapes}."
            )
    if len(members[0].output.shape) != 1:
        raise ValueError(
            "Expected classifiers, with outputs of shape (samples, classes). "
            f"Received: shape (samples, *{members[0].output.shape})."
        )
    if len({m.file for m in members}) != len(members):
        raise ValueError(f"Expected a file for each member. Received: {names}.")
    if len(manifest.files) > MAX_FILES:
        raise ValueError(
            f"Expected at most {MAX_FILES:,} files. Received: {len(manifest.files):,}."
        )
    unlisted = [m.file for m in members if m.file not in manifest.files]
    if unlisted:
        raise ValueError(
            f"Expected a hash of every file. Received: none of {unlisted}."
        )


def _check_class_names(manifest):
    names, classes = manifest.class_names, manifest.members[0].output.shape[0]
    if names is not None and len(names) != classes:
        raise ValueError(f"Expected {classes} class names. Received: {names}.")


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"Expected values that JSON can hold. Received: {value!r}.")
