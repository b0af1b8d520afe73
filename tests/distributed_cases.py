"""Helpers for the tests of nodes and gateways."""

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

from mosquitto import Mosquitto, require_mosquitto

from keras_micronets.edge import Broker, Gateway, Node
from keras_micronets.edge.distributed.connection import Connection

ROOT = Path(__file__).parents[1]


def until(condition, seconds=10.0):
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return value


class Client:
    """Subscribe to topics, and publish arbitrary messages."""

    def __init__(self, broker, *topics, name=None):
        self.messages, self._some = [], threading.Condition()
        name = name or f"client-{secrets.token_hex(4)}"
        self.connection = Connection(
            broker,
            name,
            topics or ["unused"],
            on_message=self._receive,
            on_connect=lambda: None,
        )
        self.connection.open()

    def _receive(self, message):
        with self._some:
            self.messages.append(message)
            self._some.notify_all()

    def say(self, message):
        """Publish, and wait for the acknowledgement of the broker."""
        self.connection.publish(message).wait_for_publish(5)

    def get(self, seconds=5.0):
        """Return the next message."""
        with self._some:
            assert self._some.wait_for(lambda: self.messages, seconds), "nothing came"
            return self.messages.pop(0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


@contextlib.contextmanager
def served(bundle, folder):
    """Serve a bundle of two members on two nodes; yield the broker and a gateway."""
    require_mosquitto()
    with Mosquitto(folder) as mosquitto:
        broker = Broker(mosquitto.host, mosquitto.port)
        with (
            Node(bundle, broker, members=[0], name="one"),
            Node(bundle, broker, members=[1], name="two"),
            Gateway(bundle, broker) as gateway,
        ):
            assert gateway.wait(10)
            yield broker, gateway


class NodeProcess:
    """Run `python BUNDLE node ...`."""

    def __init__(self, bundle, broker, name, members, *, log, capacity=8):
        self.command = [
            *(sys.executable, bundle, "node", "--broker", str(broker)),
            *("--name", name, "--members", members, "--capacity", str(capacity)),
            *("--keepalive", str(broker.keepalive)),
        ]
        self.name, self.log = name, log
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": ""},
            )
        return self

    def wait(self):
        """Wait until it serves."""
        line = self.process.stdout.readline().decode()
        assert "serving" in line, Path(self.log).read_text()
        return self

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()

    def rss(self):
        """Return the resident bytes."""
        return resident(self.process.pid)


def resident(pid="self"):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
