"""Classify samples by the members that other devices serve, by MQTT.

It prints a line for each as `predict` does, with the names of those that answered.
"""

import argparse

from ..distributed.gateway import Gateway
from .broker import add_broker_arguments, read_broker
from .reading import Answers, Reading, add_input_arguments, check_inputs

NAME = "ask"
HELP = "classify samples on other devices, by MQTT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_input_arguments(parser)
    parser.add_argument(
        "--deadline",
        type=float,
        default=5.0,
        help="seconds for a request, and for finding nodes; default: %(default)s",
    )
    parser.add_argument("--quorum", type=int, help="members; default: a majority")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        help="samples a request, at most; default: %(default)s",
    )
    parser.add_argument("--name", help="default: the user name, or the host's")
    add_broker_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a sample, and save the probabilities where asked.

    Returns:
        Exit code: `0`; `2` if some of the input was bad, or too few members answered,
        said on stderr.
    """
    check_inputs(arguments)
    with Gateway(
        arguments.bundle,
        read_broker(arguments),
        quorum=arguments.quorum,
        deadline=arguments.deadline,
        name=arguments.name,
        prefix=arguments.prefix,
        public_key=arguments.public_key,
    ) as gateway:
        gateway.wait(arguments.deadline)

        def answer(x):
            size = max(1, arguments.batch_size)
            for start in range(0, len(x), size):
                yield _as_answers(gateway.predict(x[start : start + size]))

        return Reading(arguments, answer, lambda: gateway.manifest).run()


def _as_answers(said):
    return Answers(said.probabilities, answered=said.members, missing=said.missing)
