"""Sections of a benchmark: functions that run in separate processes."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run_section(
    script: str, section: str, settings: dict, out: Path, **environment: str
):
    """Run one function of a script that takes its name, settings and where to write.

    Args:
        script: Module that is run as `python -m SCRIPT SECTION SETTINGS OUT`.
        section: Name of the function.
        settings: Its settings, as JSON values.
        out: Where it writes what it returns, as JSON.
        **environment: Variables of the process, besides those of this one.

    Returns:
        What it wrote.
    """
    command = [sys.executable, "-m", script, section, json.dumps(settings), out]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True)
    return json.loads(out.read_text())


def machine() -> dict:
    """Return what numbers are measured on, and how busy it is."""
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
