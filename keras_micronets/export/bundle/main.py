"""Run this bundle: `python BUNDLE predict images.npy`, or `python BUNDLE bench`."""

# `write_bundle` copies this file into every bundle as `__main__.py`.
import sys
from pathlib import Path

__all__: list[str] = []

# A folder, or the zip that Python runs. A link stays one, for a node to read it again.
BUNDLE = Path(__file__).absolute().parent


def _install_command():
    if BUNDLE.is_dir():
        return f"python -m pip install -r {BUNDLE / 'requirements.txt'}"
    lines = __loader__.get_data("requirements.txt").decode().splitlines()
    return " ".join(["python -m pip install", *(f'"{line}"' for line in lines)])


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # a bundle stays as it was exported
    sys.path.insert(0, str(BUNDLE.resolve()))  # the same code until the process ends
    try:
        from edge.cli import main
    except ModuleNotFoundError as error:
        print(f"error: {error}. Run: {_install_command()}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(path=BUNDLE))
