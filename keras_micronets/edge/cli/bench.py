"""Measure the time of a prediction."""

import argparse

from ..bench import bench
from ..runner import EnsembleRunner

NAME = "bench"
HELP = "measure the time of a prediction"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--repeats", type=int, default=200, help="default: %(default)s")


def run(arguments: argparse.Namespace) -> None:
    """Print the latencies of the bundle."""
    with EnsembleRunner(arguments.bundle, public_key=arguments.public_key) as runner:
        print(bench(runner, repeats=arguments.repeats))
