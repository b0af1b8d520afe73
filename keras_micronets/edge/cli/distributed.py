"""The commands `node` and `ask`: serve members by MQTT, and use those of others."""

import argparse
import os
import queue
import signal
import sys

from ..bundle.manifest import Manifest
from ..distributed.broker import Broker
from ..distributed.gateway import Gateway
from ..distributed.node import Node
from ..tensors import count_samples, take_samples
from .reading import InputLoop, Predictions, add_input_arguments, check_inputs

__all__ = ["add_gateway_arguments", "add_node_arguments", "run_gateway", "run_node"]

PASSWORD = "MICRONETS_PASSWORD"


def add_gateway_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command `ask` to a parser."""
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
        help="most samples per request; default: %(default)s",
    )
    parser.add_argument("--name", help="default: the user name, or the host's")
    _add_broker_arguments(parser)


def run_gateway(arguments: argparse.Namespace) -> int:
    """Classify the inputs on other devices, and return the exit code."""
    check_inputs(arguments)
    with Gateway(
        arguments.bundle,
        _read_broker(arguments),
        public_key=arguments.public_key,
        quorum=arguments.quorum,
        deadline=arguments.deadline,
        name=arguments.name,
        prefix=arguments.prefix,
    ) as gateway:
        gateway.wait(arguments.deadline)

        def predict(x):
            size = max(1, arguments.batch_size)
            for start in range(0, count_samples(x), size):
                part = take_samples(x, slice(start, start + size))
                result = gateway.predict(part)
                yield Predictions(
                    result.probabilities,
                    answered=result.members,
                    missing=result.missing,
                )

        return InputLoop(arguments, predict, lambda: gateway.manifest).run()


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command `node` to a parser."""
    parser.add_argument(
        "--members", metavar="0,2", help="indices or names; default: all members"
    )
    parser.add_argument("--name", help="default: the user name, or the host's")
    parser.add_argument(
        "--capacity",
        type=int,
        default=8,
        help="requests taken at a time; default: %(default)s",
    )
    _add_broker_arguments(parser)


def run_node(arguments: argparse.Namespace) -> None:
    """Serve members until a signal stops the node."""
    # Bound first: a signal during the start stops the node as soon as it is up.
    signals = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: signals.put(received))
    with Node(
        arguments.bundle,
        _read_broker(arguments),
        members=_member_indices(arguments),
        public_key=arguments.public_key,
        name=arguments.name,
        capacity=arguments.capacity,
        prefix=arguments.prefix,
        on_failed=lambda _: signals.put(None),
    ) as node:
        print(f"{_describe(node)} at {arguments.broker}", flush=True)
        while (received := signals.get()) == signal.SIGHUP:
            _reload(node)
        if received is None:
            raise ConnectionError(f"The node {node.name} was stopped: {node.failed}.")


def _describe(node):
    return f"node {node.name}: serving {', '.join(node.members)}"


def _reload(node):
    try:
        node.reload()
    except (ValueError, OSError) as error:
        print(f"error: {error} The previous bundle stays in use.", file=sys.stderr)
    else:
        print(f"{_describe(node)}, reloaded", flush=True)


def _member_indices(arguments):
    text = arguments.members
    if text is None:
        return None
    manifest = Manifest.read(arguments.bundle, public_key=arguments.public_key)
    names = [member.name for member in manifest.members]
    indices = []
    for item in text.split(","):
        if item in names:
            indices.append(names.index(item))
        elif item.isascii() and item.isdigit():
            indices.append(int(item))
        else:
            raise ValueError(
                f"Expected member indices from 0 to {len(names) - 1} or names out of "
                f"{names}, separated by commas. Received: --members {text}."
            )
    return indices


def _add_broker_arguments(parser):
    # No option for the password: other users could read it in the list of processes.
    group = parser.add_argument_group("broker")
    group.add_argument("--broker", required=True, metavar="HOST[:PORT]")
    group.add_argument("--username", help=f"its password is read from {PASSWORD}")
    group.add_argument(
        "--password-file", metavar="FILE", help="read the password from its first line"
    )
    group.add_argument("--tls", action="store_true", help="use TLS")
    group.add_argument(
        "--ca", metavar="FILE", help="authority of the broker's certificate; with TLS"
    )
    group.add_argument("--cert", metavar="FILE", help="our certificate; with TLS")
    group.add_argument("--key", metavar="FILE", help="the key of our certificate")
    group.add_argument(
        "--keepalive", type=int, default=30, help="in seconds; default: %(default)s"
    )
    group.add_argument("--prefix", default="micronets", help="first part of all topics")


def _read_broker(arguments):
    return Broker.parse(
        arguments.broker,
        username=arguments.username,
        password=_password(arguments),
        ca_file=arguments.ca,
        cert_file=arguments.cert,
        key_file=arguments.key,
        tls=arguments.tls,
        keepalive=arguments.keepalive,
    )


def _password(arguments):
    if arguments.password_file:
        with open(arguments.password_file, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    return os.environ.get(PASSWORD) if arguments.username else None
