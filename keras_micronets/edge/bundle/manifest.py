"""Define the bundle's `manifest.json`, once for its writer and its readers."""

import dataclasses
import hashlib
import json
import math
import os
import reprlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..alarm import Alarm
from ..combine import check_rule
from ..early_exit import EarlyExit
from ..preprocessing import Preprocessing
from ..tasks import CLASS_TASKS, SpreadScale
from ..tensors import TensorSpec, shape_of
from .files import MAX_FILES, BundleFiles
from .from_json import from_json
from .signature import MANIFEST, read_manifest

__all__ = ["Combination", "Manifest", "MemberEntry", "TensorSpec"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Combination:
    """Define how the members' predictions are combined, see `combine`.

    Args:
        rule: `"mean"`, `"logit"`, `"vote"`, `"weights"` or `"median"`. Defaults to
            `"mean"`.
        weights: One weight per member, for `"weights"`. Defaults to `None`.
        temperature: Number by which the logarithms of the combined probabilities are
            divided. Defaults to `1.0`, which is left out of the manifest: other
            temperatures are rejected by the runners of version 0.1.0.
        task: What the members predict, one of `edge.TASKS`. Defaults to
            `"multiclass"`, which is left out as well.
        spread_scale: How the members' spread becomes the standard deviation of the
            error, for tasks that predict numbers. Defaults to `None`, which is left out
            as well: the spread is not scaled.
    """

    rule: str = "mean"
    weights: tuple[float, ...] | None = None
    temperature: float = field(default=1.0, metadata={"optional": True})
    task: str = field(default="multiclass", metadata={"optional": True})
    spread_scale: SpreadScale | None = field(default=None, metadata={"optional": True})

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `combine`."""
        return {k: v for k, v in vars(self).items() if k != "spread_scale"}


@dataclass(frozen=True)
class MemberEntry:
    """Describe one member of a bundle.

    Args:
        name: Unique name of the member.
        file: Name of its `.tflite` file, relative to the bundle.
        from_logits: Whether the model returns logits.
        input: Description of its input; of several, a dictionary by their names.
        output: Description of its output.
        bytes: Size of the file in bytes.
        gzip_bytes: Size of the file in bytes, compressed by gzip.
        metadata: Further facts (sparsity, epoch), as JSON values. Defaults to an empty
            dict.
    """

    name: str
    file: str
    from_logits: bool
    input: dict[str, TensorSpec] | TensorSpec
    output: TensorSpec
    bytes: int
    gzip_bytes: int
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def input_shape(self) -> Any:
        """Shape of an input without the batch; of several inputs a dictionary."""
        return shape_of(self.input)

    def __post_init__(self) -> None:
        if isinstance(self.input, dict) and len(self.input) < 2:
            raise ValueError(
                "Expected names only for several inputs. Received: "
                f"input={[*self.input]} of {self.name!r}."
            )


@dataclass(frozen=True)
class Manifest:
    """Describe a bundle: its files, its members and how to run them.

    Args:
        members: One or more members, all with the same inputs and output shape.
        files: SHA-256 of every file of the bundle except the manifest, its checksum
            and its signature, keyed by the file's name relative to the bundle, with
            forward slashes.
        class_names: One name per class, label or predicted number; for the task
            `"binary"` two, that of the event last. Defaults to `None`, no names.
        preprocessing: Preprocessing of raw inputs. Defaults to none.
        combination: How members are combined. Defaults to the mean.
        accuracies: Measured accuracies, as JSON values, with a sentence about how they
            were measured. Defaults to an empty dict.
        package_version: Version of the package that wrote the bundle.
            Defaults to `""`.
        created_by: Program that wrote the bundle. Defaults to `""`.
        format_version: Version of this format. Defaults to `FORMAT_VERSION`.
        early_exit: When a sample needs no more members. Defaults to `None`: all
            members are run.
        alarm: Which samples are anomalies, for the task `"reconstruction"`. Defaults
            to `None`, which is left out of the manifest.

    Raises:
        ValueError: If the values contradict each other.

    Example:

    ```python
    from keras_micronets.edge import Manifest

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
    alarm: Alarm | None = field(default=None, metadata={"optional": True})

    def __post_init__(self) -> None:
        _check_members(self)
        check_rule(n_members=len(self.members), **self.combination.arguments)
        _check_outputs(self)
        _check_class_names(self)
        self.preprocessing.check(self.members[0].input_shape)
        if self.early_exit:
            self.early_exit.check(
                len(self.members),
                self.members[0].output.shape[0],
                self.combination.weights,
                self.task,
            )

    @property
    def task(self) -> str:
        """What the members predict, one of `edge.TASKS`."""
        return self.combination.task

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Return the manifest in a JSON text.

        Raises:
            ValueError: If the text is not a manifest of this format version.
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
                f"Expected a manifest of format version {FORMAT_VERSION}; run the "
                "bundle with the runner inside it, or export it again. "
                f"Received: format_version={reprlib.repr(version)}."
            )
        return from_json(value, cls, "manifest")

    @property
    def digest(self) -> str:
        """SHA-256 of `manifest.json`, in hexadecimal; it identifies the bundle."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the manifest as JSON text, with NumPy values as plain ones."""
        values = dataclasses.asdict(self)
        if self.combination.temperature == 1:
            del values["combination"]["temperature"]
        if self.task == "multiclass":
            del values["combination"]["task"]
        if self.combination.spread_scale is None:
            del values["combination"]["spread_scale"]
        if self.alarm is None:
            del values["alarm"]
        return json.dumps(values, indent=2, allow_nan=False, default=_plain) + "\n"

    @classmethod
    def read(
        cls,
        path: str | os.PathLike,
        *,
        public_key: str | os.PathLike | bytes | None = None,
    ) -> "Manifest":
        """Return the manifest of a bundle, without reading its other files.

        Args:
            path: The bundle, a folder or a `.zip`.
            public_key: As for `verify`. Defaults to `None`.

        Raises:
            ValueError: If the bundle has no manifest of this format version, or it was
                modified, or it is not signed by the owner of the public key.
        """
        with BundleFiles(path) as files:
            return cls.read_from(files, public_key=public_key)

    @classmethod
    def read_from(
        cls, files: BundleFiles, *, public_key: str | os.PathLike | bytes | None = None
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
    """Accept one text only: others would have another digest, or a key twice."""
    if manifest.to_json().encode() != data:
        raise ValueError(
            "Expected the text that `Manifest.to_json` returns. Received: other "
            "spaces, other forms of numbers, a default, or a duplicate key."
        )


def _check_members(manifest):
    members = manifest.members
    names = [member.name for member in members]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Expected members with unique names. Received: {names}.")
    for end in ("input", "output"):
        shapes = {m.name: shape_of(getattr(m, end)) for m in members}
        if any(shape != shapes[names[0]] for shape in shapes.values()):
            raise ValueError(
                f"Expected members with the same {end} shape. Received: {shapes}."
            )
    if len({m.file for m in members}) != len(members):
        raise ValueError(f"Expected one file for each member. Received: {names}.")
    if len(manifest.files) > MAX_FILES:
        raise ValueError(
            f"Expected at most {MAX_FILES:,} files. Received: {len(manifest.files):,}."
        )
    unlisted = [m.file for m in members if m.file not in manifest.files]
    if unlisted:
        raise ValueError(
            f"Expected a hash of every file. Received: none of {unlisted}."
        )


def _check_outputs(manifest):
    task, member = manifest.task, manifest.members[0]
    shape = member.output.shape
    suits = {
        "binary": shape == (1,),
        "regression": True,
        "reconstruction": shape == member.input_shape,
    }
    if not suits.get(task, len(shape) == 1):
        expected = {
            "binary": "(samples, 1)",
            "multiclass": "(samples, classes)",
            "multilabel": "(samples, labels)",
            "reconstruction": f"(samples, *{member.input_shape}), that of one input,",
        }
        raise ValueError(
            f"Expected outputs of shape {expected[task]} for task={task!r}. Received: "
            f"shape (samples, *{shape})."
        )
    scale = manifest.combination.spread_scale
    n_spreads = math.prod(shape) if task == "regression" else 1
    if scale and (task in CLASS_TASKS or len(scale.factors) != n_spreads):
        raise ValueError(
            "Expected a scale of the spread with a factor for each of the outputs of a "
            "regression, or one for a reconstruction. Received: "
            f"{len(scale.factors)} for task={task!r}."
        )
    if manifest.alarm is not None and task != "reconstruction":
        raise ValueError(
            "Expected an alarm with the task 'reconstruction' only. Received: "
            f"task={task!r}."
        )


def _check_class_names(manifest):
    names, shape = manifest.class_names, manifest.members[0].output.shape
    if names is None:
        return
    count = 2 if manifest.task == "binary" else math.prod(shape)
    if len(names) != count:
        noun = "class names" if manifest.task in CLASS_TASKS else "names of outputs"
        raise ValueError(f"Expected {count} {noun}. Received: {names}.")


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"Expected values that JSON can represent. Received: {value!r}.")
