"""What `python BUNDLE ...` runs."""

import argparse
import os
import sys
import zipfile

import numpy as np

from .bench import bench
from .runner import EnsembleRunner


def main(argv: list[str] | None = None, *, directory: str | os.PathLike) -> int:
    """Run the command line of a bundle.

    Args:
        argv: Arguments: `predict FILE.npy [--output OUT.npy] [--members]`, or
            `bench [--repeats N]`. Defaults to `None`, those of the process.
        directory: The bundle, a folder or a `.zip`.

    Returns:
        Exit code: `0`, or `2` for bad input, said on stderr.

    Example:

    ```python
    main(["predict", "images.npy"], directory="bundle")
    ```
    """
    arguments = _parser(os.path.basename(directory)).parse_args(argv)
    try:
        with EnsembleRunner(directory) as runner:
            arguments.run(runner, arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser(name):
    parser = argparse.ArgumentParser(
        prog=f"python {name}", description="Run an ensemble of small classifiers."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", help="classify the samples of a file")
    predict.add_argument("file", metavar="FILE.npy", help="raw samples, as one array")
    predict.add_argument(
        "--output",
        metavar="OUT.npy",
        help="save the probabilities: (samples, classes), or (members, samples, "
        "classes) with --members",
    )
    predict.add_argument(
        "--members", action="store_true", help="show what every member says as well"
    )
    predict.set_defaults(run=_predict)
    timing = commands.add_parser("bench", help="measure the time of a prediction")
    timing.add_argument("--repeats", type=int, default=200, help="default: %(default)s")
    timing.set_defaults(run=lambda runner, a: print(bench(runner, repeats=a.repeats)))
    return parser


def _predict(runner, arguments):
    x = _load(arguments.file)
    columns = {"": runner.predict(x)}
    saved = columns[""]
    if arguments.members:
        saved = runner.predict_members(x)
        names = (f"  {member.name}: " for member in runner.members)
        columns.update(zip(names, saved, strict=True))
    if arguments.output:
        with open(arguments.output, "wb") as file:
            np.save(file, saved)
    for sample in range(len(x)):
        said = (f"{n}{_choice(p[sample], runner)}" for n, p in columns.items())
        print(f"{sample}: {''.join(said)}")


def _choice(probabilities, runner):
    best = int(probabilities.argmax())
    name = f" {runner.class_names[best]}" if runner.class_names else ""
    return f"{best}{name} {probabilities[best]:.4f}"


def _load(path):
    try:
        with open(path, "rb") as file:
            x = np.load(file, allow_pickle=False)
            if isinstance(x, np.ndarray):
                return x
            received = f"an archive of {[*x]}"
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        received = error
    raise ValueError(
        f"Expected a .npy file of numbers, one array. Received: {path} ({received})."
    )
