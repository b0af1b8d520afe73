"""Serve members of the bundle to gateways, until stopped.

SIGTERM and SIGINT take the node off the list; SIGHUP reads the bundle anew.
"""

import argparse
import queue
import signal
import sys

from ..bundle.manifest import Manifest
from ..distributed.node import Node
from .broker import add_broker_arguments, read_broker

NAME = "node"
HELP = "serve members to other devices, by MQTT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--members", metavar="0,2", help="places or names; default: all members"
    )
    parser.add_argument("--name", help="default: the user name, or the host's")
    parser.add_argument(
        "--capacity",
        type=int,
        default=8,
        help="requests taken at a time; default: %(default)s",
    )
    add_broker_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    # Bound first: a signal during the start stops the node as soon as it is up.
    signals = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: signals.put(received))
    with Node(
        arguments.bundle,
        read_broker(arguments),
        members=_places(arguments),
        name=arguments.name,
        capacity=arguments.capacity,
        prefix=arguments.prefix,
        public_key=arguments.public_key,
        on_failed=lambda _: signals.put(None),
    ) as node:
        said = f"node {node.name}: serving {', '.join(node.members)}"
        print(f"{said} at {arguments.broker}", flush=True)
        while (received := signals.get()) == signal.SIGHUP:
            _reload(node)
        if received is None:
            raise ConnectionError(f"The node {node.name} was stopped: {node.failed}.")


def _reload(node):
    try:
        node.reload()
    except (ValueError, OSError) as error:
        print(f"error: {error} The old bundle is served on.", file=sys.stderr)
    else:
        print(f"node {node.name}: serving {', '.join(node.members)} anew", flush=True)


def _places(arguments):
    text, key = arguments.members, arguments.public_key
    if text is None:
        return None
    manifest = Manifest.read(arguments.bundle, public_key=key)
    names = [member.name for member in manifest.members]
    places = []
    for item in text.split(","):
        if item in names:
            places.append(names.index(item))
        elif item.isascii() and item.isdigit():
            places.append(int(item))
        else:
            raise ValueError(
                f"Expected places from 0 to {len(names) - 1} or names out of {names}, "
                f"joined by commas. Received: --members {text}."
            )
    return places
