"""Write a `.tflite` file as C++ source for microcontrollers."""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from keras_micronets._version import __version__
from keras_micronets.export.atomic import write_atomically
from keras_micronets.export.flatbuffer import read_bytes, read_flatbuffer

__all__ = ["CArray", "measure_arena", "write_c_array"]

BYTES_PER_LINE = 12
#: The arena holds temporary tensors beside what the interpreter reports.
MARGIN, ALIGNMENT, ATTEMPTS = 1024, 16, 5
LARGEST_ARENA = 2**26

# An arena that is too small may end the process, and the report goes to stderr.
_RUN = """
import sys
from tflite_micro import runtime
interpreter = runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))
interpreter.invoke()
interpreter.print_allocations()
"""

_HEADER = """\
// {name}: {n_bytes} bytes, written by keras_micronets {version}.
// Operations: {operations}.
// {arena}
#ifndef {guard}
#define {guard}

extern const unsigned char g_{name}[];
extern const unsigned int g_{name}_size;
{constant}
#endif  // {guard}
"""

_SOURCE = """\
// Written by keras_micronets {version}.
#include "{header}"

alignas({alignment}) const unsigned char g_{name}[] = {{
{rows}
}};
const unsigned int g_{name}_size = {n_bytes};
"""


@dataclass(frozen=True)
class CArray:
    """Describe the files that `write_c_array` wrote.

    Attributes:
        source: Path of the `.cc` file, which holds the model's bytes.
        header: Path of the `.h` file, which declares them.
        n_bytes: Size of the model in bytes, in the read-only memory of the device.
        arena_size: Bytes of memory for the tensors, or `None` if it was not measured.
        operations: Names of the operations, for the device's resolver.
    """

    source: Path
    header: Path
    n_bytes: int
    arena_size: int | None
    operations: tuple[str, ...]


def write_c_array(
    model: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    name: str | None = None,
) -> CArray:
    """Write a `.tflite` file as a `.cc` and `.h` pair for TensorFlow Lite Micro.

    The source holds the bytes of the file in an array `g_NAME` that is aligned as the
    interpreter needs it, and `g_NAME_size`. The header declares both, lists the
    operations, and defines `g_NAME_arena_size`, the bytes of the tensor arena, measured
    here with the package `tflite-micro`. Its pointers have 64 bits: a microcontroller
    of 32 bits needs less.

    Args:
        model: Path of a `.tflite` file, such as `export_tflite` and
            `EnsemblePruner.export` write.
        path: Path of the source, which ends in `.cc`; the header lies beside it. Older
            files are replaced. Defaults to `None`, beside the model.
        name: Name of the model in C++, of letters, digits and underscores. Defaults to
            `None`, made from the name of the source.

    Returns:
        A `CArray`.

    Raises:
        ValueError: If the model is not a `.tflite` file, the path or the name is
            invalid, or TensorFlow Lite Micro is installed and cannot run the model.
            Nothing is written then.

    Example:

    ```python
    kmn.export_tflite(model, "digits.tflite", representative_data=x_train)
    written = kmn.export.write_c_array("digits.tflite")
    print(written.source, written.arena_size)  # digits.cc, bytes or None
    ```
    """
    content = _read(model)
    source = Path(model).with_suffix(".cc") if path is None else Path(path)
    if source.suffix != ".cc":
        raise ValueError(
            f"Expected a path that ends in .cc. Received: {os.fspath(source)!r}."
        )
    name = _identifier(source.stem) if name is None else name
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            "Expected a name of letters, digits and underscores that does not begin "
            f"with a digit. Received: name={name!r}."
        )
    arena_size = measure_arena(content) if _is_installed() else None
    operations = tuple(sorted(read_flatbuffer(content).operations))
    header = source.with_suffix(".h")
    write_atomically(header, _header(name, content, operations, arena_size).encode())
    write_atomically(source, _source(name, content, header.name).encode())
    return CArray(source, header, len(content), arena_size, operations)


def measure_arena(content: bytes) -> int:
    """Return the bytes of an arena in which TensorFlow Lite Micro runs a model.

    Raises:
        ValueError: If it cannot run the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(content)
        used = _run(path, LARGEST_ARENA)
        for attempt in range(ATTEMPTS):
            size = used + MARGIN * 2**attempt
            size += -size % ALIGNMENT
            try:
                _run(path, size)
            except ValueError:
                continue
            return size
    return LARGEST_ARENA


def _run(path, arena_size):
    """Return the bytes that are used of an arena, if a model runs in it."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(path), str(arena_size)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Arena allocation total (\d+) bytes", done.stderr)
    if done.returncode or found is None:
        reason = " ".join(done.stderr.split())
        raise ValueError(
            "Expected a model that TensorFlow Lite Micro can run. Received: one of "
            f"which it says: {reason[:300]}. Its operations and their types are listed "
            "in the documentation of tflite-micro; use `quantization='int8'`."
        )
    return int(found[1])


def _is_installed():
    return importlib.util.find_spec("tflite_micro") is not None


def _read(model):
    content = read_bytes(model)
    if content[4:8] != b"TFL3":
        raise ValueError(f"Expected a .tflite file. Received: {model}, another one.")
    return content


def _identifier(text):
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return f"_{name}" if name[:1].isdigit() else name


def _header(name, content, operations, arena_size):
    constant = f"constexpr int g_{name}_arena_size = {arena_size};\n"
    arena = "The arena was measured with pointers of 64 bits."
    if arena_size is None:
        constant = ""
        arena = "Its arena was not measured: run `pip install tflite-micro` before."
    return _HEADER.format(
        name=name,
        n_bytes=f"{len(content):,}",
        version=__version__,
        operations=", ".join(operations),
        arena=arena,
        guard=f"{name.upper()}_H_",
        constant=constant,
    )


def _source(name, content, header):
    rows = (
        "    " + ", ".join(f"0x{byte:02x}" for byte in content[i : i + BYTES_PER_LINE])
        for i in range(0, len(content), BYTES_PER_LINE)
    )
    return _SOURCE.format(
        name=name,
        version=__version__,
        header=header,
        alignment=ALIGNMENT,
        rows=",\n".join(rows) + ",",
        n_bytes=len(content),
    )
