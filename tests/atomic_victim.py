"""A process whose children are killed while they write a bundle.

It loads the module by its path: it imports no Keras, and may fork. For each way of
swapping it writes once to count the steps, calls into the operating system that
change files, then kills a child before each of them.
"""

import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path

STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "ctypes.dlsym")


def load(path):
    spec = importlib.util.spec_from_file_location("atomic", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(atomic, target, text, *, exchange, kill_at=None):
    """Write in a child; return its number of steps, or `None` if it was killed."""
    read_end, write_end = os.pipe()
    if pid := os.fork():
        os.close(write_end)
        with open(read_end) as file:
            output = file.read()
        killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        return None if killed else int(output)
    if not exchange:
        atomic._exchange = no_exchange
    steps = 0

    def step(event, _):
        nonlocal steps
        if event in STEPS:
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    sys.addaudithook(step)
    files = {f"{name}/{n}": text for name in "ab" for n in range(2)}
    atomic.write_whole(target, files, check=lambda path: None)
    os.write(write_end, str(steps).encode())
    os._exit(0)


def no_exchange(a, b):
    raise OSError("no exchange")


def main(module, root):
    atomic = load(module)
    for name, exchange in (("x.zip", True), ("x", True), ("y", False)):
        count = None
        at = 0
        while count is None:
            target = Path(root, f"{at:03d}", name)
            shutil.rmtree(target.parent, ignore_errors=True)
            write(atomic, target, b"old", exchange=exchange)
            count = write(atomic, target, b"new", exchange=exchange, kill_at=at)
            target.parent.rename(Path(root, f"{name}-{at:03d}"))
            at += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
