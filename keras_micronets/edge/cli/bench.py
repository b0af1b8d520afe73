"""Measure latency, throughput and memory."""

import argparse

from ..bench import bench
from ..runner import EnsembleRunner

NAME = "bench"
HELP = "measure latency, throughput and memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--repeats", type=int, default=200, help="default: %(default)s")


def run(arguments: argparse.Namespace) -> None:
    """Print what was measured of the bundle."""
    with EnsembleRunner(arguments.bundle, public_key=arguments.public_key) as runner:
        print(bench(runner, repeats=arguments.repeats))
