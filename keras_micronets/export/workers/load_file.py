"""Load and run `.tflite` files in a process that may die of them.

A program that imports nothing of this package: it starts in a tenth of a second.
"""

import os
import sys
from collections.abc import Callable

import numpy as np
from ai_edge_litert.interpreter import Interpreter

__all__ = ["load_file", "serve"]


def serve(do: Callable[[str], object]) -> None:
    """Do the job of each line that a `Worker` writes, until the input ends.

    Args:
        do: Function of a line; an exception ends the process.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        do(line.removesuffix("\n"))
        print("ready", file=answers, flush=True)


def load_file(path: str) -> None:
    """Load a file and run it on zeros; who loads it next reports its errors."""
    try:
        interpreter = Interpreter(path, num_threads=1)
        for info in interpreter.get_input_details():
            if -1 in info["shape_signature"]:
                interpreter.resize_tensor_input(info["index"], info["shape"])
        interpreter.allocate_tensors()
        for info in interpreter.get_input_details():
            interpreter.set_tensor(
                info["index"], np.zeros(info["shape"], info["dtype"])
            )
        interpreter.invoke()
    except (ValueError, RuntimeError):
        pass


if __name__ == "__main__":
    serve(load_file)
