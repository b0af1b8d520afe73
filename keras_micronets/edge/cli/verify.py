"""Check that a bundle is as it was exported; nothing in it is run."""

import argparse

from ..bundle.files import BundleFiles
from ..bundle.integrity import verify
from ..bundle.signature import SIGNATURE

NAME = "verify"
HELP = "check that a bundle is as it was exported"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command: none of its own."""


def run(arguments: argparse.Namespace) -> None:
    """Print how many files are as exported, the bundle's digest, and who signed it."""
    manifest = verify(arguments.bundle, public_key=arguments.public_key)
    print(f"{arguments.bundle}: {len(manifest.files)} files, all as they were exported")
    print(f"SHA-256 of the manifest: {manifest.digest}")
    print(f"signature: {_signature(arguments)}")


def _signature(arguments):
    if arguments.public_key:
        return f"by the owner of {arguments.public_key}"
    with BundleFiles(arguments.bundle) as files:
        signed = SIGNATURE in files.names()
    return "there, not checked without --public-key" if signed else "none"
