"""A real broker for the tests: Mosquitto, on loopback, on a free port."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "docs" / "mosquitto"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def require_mosquitto():
    """Skip the test without Mosquitto, unless it is required."""
    program = shutil.which("mosquitto", path=PATH)
    if program is None and os.environ.get("REQUIRE_MOSQUITTO") != "1":
        pytest.skip("needs mosquitto: apt-get install mosquitto")
    return program or "mosquitto"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Mosquitto:
    """Run a broker in a folder; it keeps its sessions over a restart.

    With `secure`, a dict of a `ca`, `cert` and `key` in PEM and of passwords by user,
    it runs the example configuration of the docs. The `settings` are further lines.
    """

    def __init__(self, folder, secure=None, settings=()):
        self.settings = settings
        self.folder, self.secure, self.port = Path(folder), secure, free_port()
        self.host = "localhost" if secure else "127.0.0.1"
        self.process = None

    def start(self):
        self.configure()
        command = [require_mosquitto(), "-c", str(self.folder / "mosquitto.conf")]
        with open(self.folder / "mosquitto.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait()
        return self

    def wait(self):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise TimeoutError(self.log())

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(10)

    def log(self):
        return (self.folder / "mosquitto.log").read_text()

    def configure(self):
        lines = ["persistence true", f"persistence_location {self.folder}/"]
        if os.geteuid() == 0:
            lines.append("user root")
        if self.secure:
            lines.append(self.example())
        else:
            lines += [f"listener {self.port} 127.0.0.1", "allow_anonymous true"]
            lines.append("set_tcp_nodelay true")
        lines += self.settings
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def example(self):
        for name in ("ca.pem", "broker.pem", "broker.key"):
            (self.folder / name).write_bytes(self.secure[name])
        shutil.copy(EXAMPLE / "acl", self.folder / "acl")
        passwords = self.folder / "passwords"
        text = "".join(f"{u}:{p}\n" for u, p in self.secure["passwords"].items())
        passwords.write_text(text)
        program = shutil.which("mosquitto_passwd", path=PATH)
        subprocess.run([program, "-U", passwords], check=True)
        text = (EXAMPLE / "micronets.conf").read_text()
        text = text.replace("/etc/mosquitto/micronets", str(self.folder))
        assert "listener 8883" in text
        return text.replace("listener 8883", f"listener {self.port}")

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)
