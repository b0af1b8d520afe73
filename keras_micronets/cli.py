"""Run the command `keras-micronets`."""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

from keras_micronets._version import __version__
from keras_micronets.edge import cli as edge_cli

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command `keras-micronets`.

    Args:
        argv: Arguments; `None` for those of the process. Defaults to `None`.

    Returns:
        Exit code: `0`, or `2` for bad input, which is described on stderr.

    Example:

    ```python
    main(["quickstart", "--epochs", "160"])
    ```
    """
    arguments = _parser().parse_args(argv)
    # Set before TensorFlow is loaded, whose messages would hide the table.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return edge_cli.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-micronets",
        description="Sparse, quantised ensembles for small devices.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    quickstart = commands.add_parser(
        "quickstart",
        help="train, prune, select, distil, export and run, in three minutes",
        description="Run the full pipeline on noisy handwritten digits, or on your "
        "images, and compare it with regularised networks.",
    )
    for name, metavar, default, text in (
        ("data", "FILE.npz", "digits", "x_train, y_train, x_test, y_test"),
        ("out", "DIR", "temporary", "where pool, files and bundle go; new or empty"),
        ("epochs", "N", 60, "epochs of the baseline, and of each learner"),
        ("learners", "N", 4, "learners, trained side by side"),
        ("members", "N", 4, "the most learners in the ensemble"),
        ("seed", "N", 0, "of the data and of the training"),
    ):
        is_number = metavar == "N"
        quickstart.add_argument(
            f"--{name}",
            metavar=metavar,
            type=int if is_number else str,
            default=default if is_number else None,
            help=f"{text} (default: {default})",
        )
    quickstart.set_defaults(run=_quickstart)
    edge_cli.add_commands(commands)
    return parser


def _quickstart(arguments: argparse.Namespace) -> None:
    from keras_micronets.quickstart import load_problem, run_quickstart

    out = arguments.out or Path(tempfile.mkdtemp(prefix="keras-micronets-"))
    run_quickstart(
        load_problem(arguments.data, seed=arguments.seed),
        out,
        epochs=arguments.epochs,
        n_learners=arguments.learners,
        n_members=arguments.members,
        seed=arguments.seed,
    )


if __name__ == "__main__":
    sys.exit(main())
