import subprocess
import sys

import pytest

from keras_micronets.edge import machine
from keras_micronets.edge.machine import (
    MachineState,
    parse_peak_memory,
    parse_temperature,
    parse_throttled,
    peak_memory,
)


@pytest.mark.parametrize(
    ("text", "celsius"),
    [("48312\n", 48.312), ("-5000", -5.0), ("", None), ("hot", None), ("4.8", None)],
)
def test_temperature(text, celsius):
    assert parse_temperature(text) == celsius


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("throttled=0x0\n", ()),
        ("throttled=0x1", ("under-voltage",)),
        ("throttled=0x20002", ("frequency capped", "frequency capped earlier")),
        (
            "throttled=0x50005",
            (
                "under-voltage",
                "throttled",
                "under-voltage earlier",
                "throttled earlier",
            ),
        ),
        ("throttled=0x80000", ("soft temperature limit earlier",)),
        ("", None),
        ("VCHI initialization failed", None),
        ("throttled=zero", None),
    ],
)
def test_throttled(text, words):
    assert parse_throttled(text) == words


def test_state_of_a_pi(tmp_path, monkeypatch):
    (tmp_path / "temp").write_text("61200\n")
    (tmp_path / "vcgencmd").write_text(
        "#!/bin/sh\n[ $1 = get_throttled ] && echo throttled=0x4\n"
    )
    (tmp_path / "vcgencmd").chmod(0o755)
    monkeypatch.setattr(machine, "_TEMPERATURE", tmp_path / "temp")
    monkeypatch.setenv("PATH", str(tmp_path))
    state = MachineState.read()
    assert state == MachineState(61.2, ("throttled",))
    assert str(state) == "61.2 °C, throttled"


def test_unknown_state(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_TEMPERATURE", tmp_path / "absent")
    monkeypatch.setenv("PATH", str(tmp_path))
    state = MachineState.read()
    assert state == MachineState(None, None)
    assert str(state) == ""
    assert str(MachineState(20.0, ())) == "20.0 °C, not throttled"


def test_peak_memory():
    assert parse_peak_memory("VmPeak:\t  9 kB\nVmHWM:\t  5120 kB\n") == 5 * 2**20
    assert parse_peak_memory("") is None
    assert parse_peak_memory("VmHWM:\t much\n") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in this unit")
def test_peak_memory_is_in_bytes():
    code = (
        "from keras_micronets.edge.machine import peak_memory;"
        "before = peak_memory(); x = bytearray(100 * 2**20); x[::4096] = x[::4096];"
        "print(peak_memory() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 90 * 2**20 < int(done.stdout) < 120 * 2**20, done.stderr
    assert peak_memory() > 2**20
