"""Run the commands of docs/raspberry-pi.md."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mosquitto import Mosquitto, require_mosquitto

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "raspberry-pi.md").read_text()


def commands(section: str, language: str = "sh") -> str:
    """Return all shell commands of a section, or code, up to the next heading."""
    text = re.search(rf"^#+ {section}\n(.*?)(?=^#+ |\Z)", TEXT, re.S | re.M)[1]
    return "".join(re.findall(rf"```{language}\n(.*?)```", text, re.S))


def shell(commands: str, folder: Path, **environment: str) -> str:
    """Run commands in a folder, and return what they print.

    Programs in its `bin` go before those of this machine.
    """
    done = subprocess.run(
        ["sh", "-e"],
        input=commands,
        cwd=folder,
        env={**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def program(path: Path, script: str) -> None:
    """Replace a program by a shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@contextlib.contextmanager
def running(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Terminate a process at the end of the block."""
    with process:
        try:
            yield process
        finally:
            process.terminate()


def docs_broker(home: Path, folder: Path) -> Mosquitto:
    """Return a broker with the certificates and the passwords of the docs.

    These are made in `home`, and for this machine's name.
    """
    require_mosquitto()
    text = commands("Certificates") + commands("Passwords")
    path = f"{os.environ['PATH']}:/usr/sbin"
    shell(text.replace("broker.local", "localhost"), home, PATH=path)
    return _DocsBroker(home, folder)


class _DocsBroker(Mosquitto):
    def __init__(self, home, folder):
        secure = {
            name: (home / name).read_bytes()
            for name in ("ca.pem", "broker.pem", "broker.key")
        }
        super().__init__(folder, {**secure, "passwords": {"unused": "unused"}})
        self.address = f"{self.host}:{self.port}"
        self._passwords = home / "passwords"

    def example(self):
        text = super().example()
        shutil.copy(self._passwords, self.folder / "passwords")
        return text
