"""Run this bundle: `python BUNDLE predict images.npy`, or `python BUNDLE bench`."""

import sys
from pathlib import Path

# `write_bundle` copies this file into every bundle as `__main__.py`.

# A folder, or the zip that Python runs; a link to one, for a node to read anew.
BUNDLE = Path(__file__).absolute().parent


def _how_to_install():
    if BUNDLE.is_dir():
        return f"python -m pip install -r {BUNDLE / 'requirements.txt'}"
    lines = __loader__.get_data("requirements.txt").decode().splitlines()
    return " ".join(["python -m pip install", *(f'"{line}"' for line in lines)])


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # a bundle stays as it was exported
    sys.path.insert(0, str(BUNDLE.resolve()))  # the same code to the end
    try:
        from edge.cli import main
    except ModuleNotFoundError as error:
        print(f"error: {error}. Run: {_how_to_install()}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(path=BUNDLE))
