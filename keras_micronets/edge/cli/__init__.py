"""The commands of `python BUNDLE ...` and of `keras-micronets ... BUNDLE`."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..bench import bench
from ..bundle.files import BundleFiles
from ..bundle.integrity import verify
from ..bundle.signature import SIGNATURE
from ..runner import EnsembleRunner
from . import distributed, predict
from .reading import check_output

__all__ = ["COMMANDS", "Command", "add_commands", "main", "run"]


@dataclass(frozen=True)
class Command:
    """Describe one command; `run` returns an exit code, or `None` for 0."""

    name: str
    help: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def main(argv: list[str] | None = None, *, path: str | os.PathLike) -> int:
    """Run the command line of a bundle.

    Args:
        argv: Arguments, the command first, such as `["predict", "images.npy"]`.
            Defaults to `None`, the arguments of the process.
        path: The bundle, a folder or a `.zip`.

    Returns:
        Exit code: `0` for success, `2` for bad input, which is reported on stderr,
        `130` after Ctrl-C, `143` after SIGTERM, and `141` if the reader of stdout has
        gone.

    Example:

    ```python
    from keras_micronets.edge.cli import main

    main(["predict", "images.npy"], path="bundle")
    ```
    """
    parser = argparse.ArgumentParser(
        prog=f"python {os.path.basename(path)}",
        description="Run an ensemble of small classifiers.",
    )
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"), path)
    arguments = parser.parse_args(argv)
    if arguments.public_key and _is_same(arguments.bundle, path):
        parser.error(
            "Expected --public-key with --bundle OTHER: the code of this bundle is "
            "already running, so it cannot vouch for itself."
        )
    return run(arguments)


def add_commands(commands: Any, path: str | os.PathLike | None = None) -> None:
    """Add the commands to the subparsers of a parser.

    Without the `path` of a bundle, each command takes it as an argument.
    """
    for command in COMMANDS:
        parser = commands.add_parser(
            command.name, help=command.help, description=command.description
        )
        _add_bundle(parser, path)
        command.add_arguments(parser)
        parser.set_defaults(run=command.run)


def run(arguments: argparse.Namespace) -> int:
    """Run the parsed command and return its exit code, see `main`."""
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _is_same(a, b):
    return os.path.realpath(a) == os.path.realpath(b)


def _add_bundle(parser, path):
    if path is None:
        parser.add_argument("bundle", metavar="BUNDLE", help="a folder or a .zip")
    else:
        parser.add_argument(
            "--bundle",
            metavar="OTHER",
            default=path,
            help="a bundle whose models are run, but not its code; default: this one",
        )
    parser.add_argument(
        "--public-key",
        metavar="FILE.pem",
        help="reject the bundle unless the owner of this Ed25519 key signed it",
    )


def _add_bench_arguments(parser):
    parser.add_argument(
        "--repeats", type=int, help="default: 200, and 20 with --operators"
    )
    parser.add_argument(
        "--operators",
        metavar="OUT.json",
        help="measure single operators instead, for plans of networks for this device",
    )


def _bench(arguments):
    check_output(arguments.operators)
    with EnsembleRunner(arguments.bundle, public_key=arguments.public_key) as runner:
        options = {} if arguments.repeats is None else {"repeats": arguments.repeats}
        if arguments.operators is None:
            print(bench(runner, **options))
        else:
            from ..operators import time_operators  # other commands need no flatbuffers

            time_operators(arguments.operators, **options)
            print(f"Wrote the times of operators to {arguments.operators}.")


def _verify(arguments):
    manifest = verify(arguments.bundle, public_key=arguments.public_key)
    print(f"{arguments.bundle}: {len(manifest.files)} files, all as they were exported")
    print(f"SHA-256 of the manifest: {manifest.digest}")
    print(f"signature: {_describe_signature(arguments)}")


def _describe_signature(arguments):
    if arguments.public_key:
        return f"by the owner of {arguments.public_key}"
    with BundleFiles(arguments.bundle) as files:
        is_signed = SIGNATURE in files.names()
    return "there, not checked without --public-key" if is_signed else "none"


COMMANDS = (
    Command(
        "predict",
        "classify images, arrays, sensor readings, or a stream",
        "Classify the samples of files or of a stream, and print a line for each. On "
        "SIGHUP the bundle is read again and used from the next sample on.",
        predict.add_arguments,
        predict.run,
    ),
    Command(
        "bench",
        "measure latency, throughput and memory",
        "Measure latency, throughput and memory.",
        _add_bench_arguments,
        _bench,
    ),
    Command(
        "verify",
        "check that a bundle is as it was exported",
        "Check that a bundle is as it was exported; none of its code is run.",
        lambda parser: None,
        _verify,
    ),
    Command(
        "node",
        "serve members to other devices, by MQTT",
        "Serve members of the bundle to gateways until stopped. SIGTERM and SIGINT "
        "stop the node; SIGHUP makes it read the bundle again.",
        distributed.add_node_arguments,
        distributed.run_node,
    ),
    Command(
        "ask",
        "classify samples on other devices, by MQTT",
        "Classify samples with members that other devices serve, by MQTT. It prints "
        "a line for each sample, as predict does, with the names of the members that "
        "answered.",
        distributed.add_gateway_arguments,
        distributed.run_gateway,
    ),
)
