"""Run the command `keras-micronets`."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

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
    # Set before TensorFlow is loaded, whose start-up messages would hide the table.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return edge_cli.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-micronets",
        description="Sparse, quantised ensembles for small devices.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    quickstart = commands.add_parser(
        "quickstart",
        help="train, prune, quantise, select, export and run, in a few minutes",
        description="Run the full pipeline on handwritten digits, or on your images.",
    )
    quickstart.add_argument(
        "--data", metavar="FILE.npz", help="x_train, y_train, x_test, y_test"
    )
    quickstart.add_argument(
        "--out", metavar="DIR", help="where pool and bundle go; a new directory"
    )
    quickstart.add_argument("--epochs", type=int, default=160)
    quickstart.add_argument("--learners", type=int, default=12)
    quickstart.add_argument("--members", type=int, default=4)
    quickstart.add_argument("--seed", type=int, default=0)
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
