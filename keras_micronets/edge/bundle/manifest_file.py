"""The bytes of `manifest.json`, and the two small files that vouch for them."""

import hashlib
import os

from .files import BundleFiles
from .signature import check_signature

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
SIGNATURE = "manifest.sig"
#: These no manifest lists: they are about the manifest, or are it.
UNLISTED = frozenset({MANIFEST, CHECKSUM, SIGNATURE})
MAX_BYTES = 2**20
_MAX_LINE = 2**10


def read_manifest(
    files: BundleFiles, *, public_key: str | os.PathLike | bytes | None = None
) -> bytes:
    """Return the bytes of a bundle's manifest, once they are known to be sound.

    Nothing in them is interpreted before.

    Args:
        files: The bundle.
        public_key: As for `check_signature`. Defaults to `None`: the signature, if
            there is one, is not looked at.

    Raises:
        ValueError: If the manifest or its checksum is missing, too large or
            changed, or the signature is not by that key.
    """
    data = files.read(MANIFEST, most=MAX_BYTES)
    if public_key is not None:
        check_signature(data, _signature(files), public_key=public_key)
    received = files.read(CHECKSUM, most=_MAX_LINE)
    if received != checksum(data):
        raise ValueError(
            f"Expected the manifest that was exported; copy or export the bundle "
            f"{files.path} anew. Received: a changed {MANIFEST!r}, whose SHA-256 is "
            f"not the one in {CHECKSUM!r}."
        )
    return data


def checksum(manifest: bytes) -> bytes:
    """Return what `sha256sum manifest.json` prints for a manifest."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _signature(files):
    try:
        return files.read(SIGNATURE, most=_MAX_LINE)
    except ValueError as error:
        raise ValueError(
            "Expected a signed bundle, since a public key was given; export it with "
            f"`signing_key=`. {error}"
        ) from None
