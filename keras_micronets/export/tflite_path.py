import os
from pathlib import Path


def check_path(path: str | os.PathLike) -> Path:
    """Return the path of a `.tflite` file to be written.

    Raises:
        ValueError: If it is another's.
    """
    path = Path(path)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(
            f"Expected a file path that ends in .tflite. Received: {str(path)!r}."
        )
    return path


def write_file(path: Path, content: bytes) -> None:
    """Put a file at a path, as a whole; an older one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
