"""What `python BUNDLE ...` runs, and `keras-micronets ... BUNDLE` as well."""

import argparse
import os
import sys

from . import ask, bench, node, predict, verify

COMMANDS = (predict, bench, verify, node, ask)


def main(argv: list[str] | None = None, *, directory: str | os.PathLike) -> int:
    """Run the command line of a bundle.

    Args:
        argv: Arguments, a command first: `predict INPUT ...`, `bench`; `--help`
            tells the others. Defaults to `None`, those of the process.
        directory: The bundle, a folder or a `.zip`.

    Returns:
        Exit code: `0`; `2` for bad input, said on stderr; as in a shell `130` after
        Ctrl-C, and `141` where nobody reads what is printed.

    Example:

    ```python
    main(["predict", "images.npy"], directory="bundle")
    ```
    """
    parser = argparse.ArgumentParser(
        prog=f"python {os.path.basename(directory)}",
        description="Run an ensemble of small classifiers.",
    )
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"), directory)
    arguments = parser.parse_args(argv)
    if arguments.public_key and _same(arguments.bundle, directory):
        parser.error(
            "Expected --public-key with --bundle OTHER: the code of this bundle runs "
            "already, so that nothing it says about itself counts."
        )
    return run(arguments)


def add_commands(commands, bundle: str | os.PathLike | None = None) -> None:
    """Add the commands of a bundle to a parser.

    Args:
        commands: What `ArgumentParser.add_subparsers` returned.
        bundle: The bundle. Defaults to `None`: it is an argument of each command.
    """
    for command in COMMANDS:
        parser = commands.add_parser(
            command.NAME, help=command.HELP, description=command.__doc__
        )
        _add_bundle(parser, bundle)
        command.add_arguments(parser)
        parser.set_defaults(run=command.run)


def _same(a, b):
    return os.path.realpath(a) == os.path.realpath(b)


def _add_bundle(parser, bundle):
    if bundle is None:
        parser.add_argument("bundle", metavar="BUNDLE", help="a folder or a .zip")
    else:
        parser.add_argument(
            "--bundle",
            metavar="OTHER",
            default=bundle,
            help="a bundle, of which the models and none of the code is run; default: "
            "this one",
        )
    parser.add_argument(
        "--public-key",
        metavar="FILE.pem",
        help="refuse the bundle unless the owner of this Ed25519 key signed it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was parsed, and return the exit code as `main` does."""
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as `head` leaves it; what is left must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
