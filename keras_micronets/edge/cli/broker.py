"""The arguments that say which broker, the same for all commands that use one."""

import argparse
import os

from ..distributed.broker import Broker

PASSWORD = "MICRONETS_PASSWORD"


def add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments. There is none for the password: others could read it."""
    group = parser.add_argument_group("broker")
    group.add_argument("--broker", required=True, metavar="HOST[:PORT]")
    group.add_argument("--username", help=f"its password is taken from {PASSWORD}")
    group.add_argument(
        "--password-file", metavar="FILE", help="take the password from its first line"
    )
    group.add_argument("--tls", action="store_true", help="use TLS")
    group.add_argument("--ca", metavar="FILE", help="who signs certificates; with TLS")
    group.add_argument("--cert", metavar="FILE", help="our certificate; with TLS")
    group.add_argument("--key", metavar="FILE", help="the key of our certificate")
    group.add_argument(
        "--keepalive", type=int, default=30, help="in seconds; default: %(default)s"
    )
    group.add_argument("--prefix", default="micronets", help="what topics begin with")


def read_broker(arguments: argparse.Namespace) -> Broker:
    """Return the broker that the arguments name.

    Raises:
        ValueError: If they do not go together.
    """
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
