"""A process whose children are killed: it imports once, and forks for each.

It reads commands from its standard input, one line of JSON each: the name of a
function below and its arguments. For each it says `pid N`, what the child says, and
`status N` once the child has ended. TensorFlow has started no threads by the time
of the fork: it does so with the first operation, in the child.
"""

import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow  # noqa: F401 - so that the children need not
from tiny_keras import compiled, data, dense_model

from keras_micronets import LearnerPool
from keras_micronets.callbacks import (
    LearnerCheckpoint,
    QuantizationAwareTraining,
    WeightPruning,
)
from keras_micronets.export import atomic
from keras_micronets.learners import learner, pool, storage
from keras_micronets.schedules import PolynomialDecay


def say(text):
    os.write(1, f"{text}\n".encode())


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train(root, epochs, limit=None):
    """Train a model, or resume, collecting a learner each epoch.

    With a limit, wait to be killed once that many epochs are done, so that however
    fast the machine, no number of lives completes the run by itself.
    """
    root = Path(root)
    lived = []

    def wait_at_the_limit(epoch, logs):
        lived.append(epoch)
        while len(lived) == limit:
            signal.pause()

    discard_empty_metadata(root / "backup")
    x, y = data(200)
    begun = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batch or say("training")
    )
    compiled(dense_model()).fit(
        x,
        y,
        batch_size=20,
        epochs=epochs,
        verbose=0,
        callbacks=[
            WeightPruning(PolynomialDecay(0.0, 0.75, end=0.9)),
            QuantizationAwareTraining(start=0.3),
            LearnerCheckpoint(LearnerPool(root / "pool"), every=1, run="run"),
            keras.callbacks.BackupAndRestore(root / "backup", double_checkpoint=True),
            begun,
            keras.callbacks.LambdaCallback(on_epoch_end=wait_at_the_limit),
        ],
    )


def discard_empty_metadata(backup):
    """Put right what Keras leaves: it empties this file before it writes it.

    Killed in between, it would not start again. The copy beside it is of an epoch
    earlier; weights that are an epoch ahead of it do no harm.
    """
    path = backup / "training_metadata.json"
    copy = path.with_name(path.name + ".bkp")
    if path.exists() and path.read_text() == "":
        copy.replace(path) if copy.exists() else path.unlink()


def add(root, point):
    """Add a learner, and be killed at one point of it."""
    POINTS[point]()
    LearnerPool(Path(root) / "pool").add(dense_model(seed=1), name="second")


def before(owner, name):
    def killed(*args, **kwargs):
        die()

    setattr(owner, name, killed)


def after(owner, name):
    function = getattr(owner, name)

    def killed(*args, **kwargs):
        function(*args, **kwargs)
        die()

    setattr(owner, name, killed)


def halfway(owner, name, path):
    """Be killed when half of a file is written; `path` gives it by the arguments."""
    function = getattr(owner, name)

    def killed(*args, **kwargs):
        function(*args, **kwargs)
        os.truncate(path(*args), path(*args).stat().st_size // 2)
        die()

    setattr(owner, name, killed)


def metadata_file(learner, directory):
    return directory / "learner.json"


POINTS = {
    "before the folder": lambda: before(atomic.uuid, "uuid4"),
    "before the model": lambda: before(keras.Model, "save"),
    "within the model": lambda: halfway(keras.Model, "save", lambda _, path: path),
    "after the model": lambda: after(keras.Model, "save"),
    "before the hash": lambda: before(storage, "sha256"),
    "before the metadata": lambda: before(learner.Learner, "write"),
    "within the metadata": lambda: halfway(learner.Learner, "write", metadata_file),
    "after the metadata": lambda: after(learner.Learner, "write"),
    "before the rename": lambda: before(Path, "rename"),
    "after the rename": lambda: after(Path, "rename"),
    "after all": lambda: after(pool, "store"),
    # Of the pool itself:
    "before the pool": lambda: before(Path, "mkdir"),
    "within the pool": lambda: before(storage, "write_json"),
    "within the marker": lambda: before(Path, "replace"),
    "after the marker": lambda: after(storage, "write_json"),
}


def main():
    for line in sys.stdin:
        name, arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            globals()[name](*arguments)
            os._exit(0)
        say(f"pid {pid}")
        _, status = os.waitpid(pid, 0)
        say(f"status {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
