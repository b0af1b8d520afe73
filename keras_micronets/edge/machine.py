"""What the device tells about itself: memory, temperature, throttling."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")
_STATUS = Path("/proc/self/status")
#: Bits of `vcgencmd get_throttled`; 16 places further up: has been so since the start.
_FLAGS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}


@dataclass(frozen=True)
class MachineState:
    """Hold how hot a device is, and whether it slows down.

    Args:
        temperature: Degrees Celsius, or `None` where the device does not tell.
        throttling: Names of what slows it down, none if nothing does, or `None`
            where the device does not tell: only a Raspberry Pi does.

    Example:

    ```python
    print(MachineState.read())  # 48.3 °C, not throttled
    ```
    """

    temperature: float | None
    throttling: tuple[str, ...] | None

    @classmethod
    def read(cls) -> "MachineState":
        """Return the state of this device now."""
        return cls(
            parse_temperature(_text_of(_TEMPERATURE)),
            parse_throttled(_output_of("vcgencmd", "get_throttled")),
        )

    def __str__(self) -> str:
        parts = []
        if self.temperature is not None:
            parts.append(f"{self.temperature:.1f} °C")
        if self.throttling is not None:
            parts.append(", ".join(self.throttling) or "not throttled")
        return ", ".join(parts)


def parse_temperature(text: str) -> float | None:
    """Return the degrees Celsius that a Linux thermal zone gives in thousandths."""
    text = text.strip()
    return int(text) / 1000 if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) else None


def parse_throttled(text: str) -> tuple[str, ...] | None:
    """Return what `vcgencmd get_throttled` says, in words.

    Example:

    ```python
    parse_throttled("throttled=0x20002")
    # ("frequency capped", "frequency capped earlier")
    ```
    """
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", text.strip())
    if not found:
        return None
    bits = int(found[1], 16)
    now = [name for bit, name in _FLAGS.items() if bits >> bit & 1]
    earlier = [f"{n} earlier" for bit, n in _FLAGS.items() if bits >> (bit + 16) & 1]
    return (*now, *earlier)


def parse_peak_memory(text: str) -> int | None:
    """Return the peak of resident bytes that a `/proc/.../status` tells."""
    found = re.search(r"^VmHWM:\s+(\d{1,15}) kB$", text, re.MULTILINE | re.ASCII)
    return int(found[1]) * 1024 if found else None


def peak_memory() -> int | None:
    """Return the most bytes that this process held so far; on Linux, else `None`."""
    # Not `resource.getrusage`, which begins with the peak of the process's parent.
    return parse_peak_memory(_text_of(_STATUS))


def _text_of(path):
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _output_of(*command):
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
