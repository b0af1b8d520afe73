"""Read the memory, temperature and throttling of this device."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "MachineState",
    "parse_peak_memory",
    "parse_temperature",
    "parse_throttled",
    "peak_memory",
]

_TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")
_STATUS = Path("/proc/self/status")
#: Bits of `vcgencmd get_throttled`; the same bits shifted by 16 mean "since the start".
_FLAGS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}


@dataclass(frozen=True)
class MachineState:
    """Hold the temperature of a device and the reasons why it is slowed down.

    Args:
        temperature: Degrees Celsius, or `None` where it is unknown.
        throttling: Names of the reasons, empty for none, or `None` where they are
            unknown: only a Raspberry Pi reports them.
    """

    temperature: float | None
    throttling: tuple[str, ...] | None

    @classmethod
    def read(cls) -> "MachineState":
        """Return the current state of this device."""
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
    """Return degrees Celsius for the thousandths that a Linux thermal zone gives."""
    text = text.strip()
    return int(text) / 1000 if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) else None


def parse_throttled(text: str) -> tuple[str, ...] | None:
    """Return the names of the flags that `vcgencmd get_throttled` prints."""
    match = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", text.strip())
    if not match:
        return None
    bits = int(match[1], 16)
    now = [name for bit, name in _FLAGS.items() if bits >> bit & 1]
    earlier = [f"{n} earlier" for bit, n in _FLAGS.items() if bits >> (bit + 16) & 1]
    return (*now, *earlier)


def parse_peak_memory(text: str) -> int | None:
    """Return the peak resident memory in bytes from the text of `/proc/.../status`."""
    match = re.search(r"^VmHWM:\s+(\d{1,15}) kB$", text, re.MULTILINE | re.ASCII)
    return int(match[1]) * 1024 if match else None


def peak_memory() -> int | None:
    """Return the largest number of bytes this process has held; `None` off Linux."""
    # `resource.getrusage` would start with the peak of the parent process.
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
