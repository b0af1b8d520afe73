"""Processes that do jobs, one after another, and may die of them."""

from keras_micronets.export.workers.load_file import serve
from keras_micronets.export.workers.worker import (
    Worker,
    WorkerDiedError,
    check_file,
    running_worker,
)

__all__ = ["Worker", "WorkerDiedError", "check_file", "running_worker", "serve"]
