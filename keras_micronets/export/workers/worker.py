"""Keep processes that do jobs, one after another, and may die of them."""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

__all__ = ["Worker", "WorkerDiedError", "check_file", "running_worker"]

_LOG_LENGTH = 1000
_workers = {}
_inherited = []


class WorkerDiedError(RuntimeError):
    """Tell that a worker's process ended during a job.

    Attributes:
        code: Its return code, negative for a signal.
        ending: The signal's name, or the return code, for messages.
    """

    def __init__(self, code: int, log: str) -> None:
        self.code, self.ending = code, _ending(code)
        super().__init__(
            f"Expected a process to finish its job. Received: {self.ending}, and: {log}"
        )


class Worker:
    """A Python process that does one job after another.

    Its program calls `serve` with the function that does a job.

    Args:
        *arguments: Arguments of Python, such as the path of the program.
        environment: Dictionary of environment variables to set.
    """

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self.environment = environment
        self._lock = threading.Lock()
        self._is_ready = False
        with contextlib.ExitStack() as files:
            self._log = files.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                [sys.executable, "-P", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=os.environ | environment,
                text=True,
                start_new_session=True,  # Ctrl+C is for the caller only
            )
            files.enter_context(self._process)
            self._jobs: Any = self._process.stdin
            self._replies: Any = self._process.stdout
            self._files = files.pop_all()

    def run(self, job: str) -> None:
        """Do a job, described by one line of text.

        Raises:
            WorkerDiedError: If the process dies of it.
            RuntimeError: If the process cannot start.
        """
        with self._lock:
            try:
                if not self._is_ready and not self._answers():
                    code = self._process.wait()
                    raise RuntimeError(
                        "Expected a Python process to start. Received: "
                        f"{_ending(code)}, and: {self._read_log()}"
                    )
                self._is_ready = True
                if not self._answers(job):
                    raise WorkerDiedError(self._process.wait(), self._read_log())
            except BaseException:  # interrupted, it would answer later
                self.close()
                raise

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # of a job that it has not read
            self._files.close()

    def _answers(self, job=None):
        if job is not None:
            with contextlib.suppress(BrokenPipeError):
                self._jobs.write(f"{job}\n")
                self._jobs.flush()
        return bool(self._replies.readline())

    def _read_log(self):
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-_LOG_LENGTH:]


def _ending(code):
    return f"return code {code}" if code >= 0 else signal.Signals(-code).name


def running_worker(*arguments: str, **environment: str) -> Worker:
    """Return a worker that is kept until this process ends, started if there is none.

    Args:
        *arguments: Arguments of Python.
        **environment: Environment variables to set. The process finds the modules that
            this one finds.
    """
    environment["PYTHONPATH"] = os.pathsep.join(x or os.getcwd() for x in sys.path)
    worker = _workers.get(arguments)
    if worker and not (worker.is_alive and worker.environment == environment):
        _workers.pop(arguments).close()
        worker = None
    if worker is None:
        worker = _workers[arguments] = Worker(*arguments, environment=environment)
    return worker


def check_file(content: bytes, name: str) -> None:
    """Let LiteRT load and run a file in another process first, as it may crash.

    Errors are not reported: whoever loads the file next gets them.

    Args:
        content: The bytes of a `.tflite` file.
        name: Name of the model for the message.

    Raises:
        ValueError: If the process dies of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        try:
            running_worker(str(Path(__file__).with_name("load_file.py"))).run(str(path))
        except WorkerDiedError as error:
            raise ValueError(
                "Expected a model whose file LiteRT can load and run. Received: "
                f"{name!r}, whose file ended a separate process ({error.ending}). The "
                "file is not written; this process and the model are unharmed. Export "
                "parts of the model to find the layer, or use `quantization=None`."
            ) from error
        except (OSError, RuntimeError) as error:
            warnings.warn(
                f"No separate process could load the file of {name!r} first, in which "
                f"a crash of LiteRT would do no harm: {error}",
                stacklevel=2,
            )


@atexit.register
def _close_all():
    while _workers:
        _workers.popitem()[1].close()


def _forget():
    """Leave the workers to the process that forked this one."""
    _inherited.extend(_workers.values())
    _workers.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
