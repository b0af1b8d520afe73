"""A process killed at any moment leaves all old files or all new ones."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from keras_micronets.export import atomic

VICTIM = Path(__file__).with_name("atomic_victim.py")
FILES = {"a": b"1", "b/c": b"2"}

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks and kills")


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Return the folder of the results of a kill before each step: `NAME-STEP/NAME`."""
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-I", VICTIM, atomic.__file__, root]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


def texts(path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return [archive.read(name) for name in archive.namelist()]
    return [file.read_bytes() for file in path.rglob("*") if file.is_file()]


def states(left, name):
    """Return the files after each kill: `"old"`, `"new"` or `"none"`."""
    results = []
    for folder in sorted(left.glob(f"{name}-*")):
        files = texts(folder / name) if (folder / name).exists() else []
        assert len(set(files)) <= 1, folder
        assert len(files) in (0, 4), folder
        results.append(files[0].decode() if files else "none")
    return results


@pytest.mark.parametrize("name", ["x.zip", "x"])
def test_old_or_new_after_a_kill(left, name):
    if name == "x" and not exchanges(left):
        pytest.skip("this file system cannot exchange folders")
    results = states(left, name)
    assert results == sorted(results, reverse=True)  # old, ..., old, new, ..., new
    assert {*results} == {"old", "new"}


def exchanges(folder):
    a, b = folder / "a", folder / "b"
    a.mkdir()
    b.mkdir()
    try:
        atomic._exchange(a, b)
    except (OSError, AttributeError):
        return False
    return True


def test_the_only_moment_without_a_folder(left):
    """Without an exchange there is one; the old files are then in the backup."""
    results = states(left, "y")
    assert results.count("none") == 1
    assert (results[0], results[-1]) == ("old", "new")
    (backup,) = Path(left, f"y-{results.index('none'):03d}").glob(".bundle-*/old")
    assert texts(backup) == [b"old"] * 4


@pytest.mark.parametrize("name", ["new", "new.zip"])
def test_everything_is_on_the_disk_before_the_swap(name, tmp_path, monkeypatch):
    synced, swap = [], atomic._swap

    def watch(descriptor):
        synced.append(os.fstat(descriptor).st_ino)

    def look(target, new, old):
        paths = [new, *new.rglob("*")]
        assert {path.stat().st_ino for path in paths} <= {*synced}
        synced.clear()
        swap(target, new, old)

    monkeypatch.setattr(atomic.os, "fsync", watch)
    monkeypatch.setattr(atomic, "_swap", look)
    atomic.write_whole(tmp_path / name, FILES, check=lambda path: None)
    assert synced == [tmp_path.stat().st_ino]


def test_a_failed_check_leaves_nothing(tmp_path):
    def refuse(path):
        assert (path / "b" / "c").read_bytes() == b"2"
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        atomic.write_whole(tmp_path / "new", FILES, check=refuse)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="zombies are found in /proc")
def test_a_zombie_does_not_run():
    process = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert not atomic.is_running(process.pid)
    process.wait()
    assert atomic.is_running(os.getpid())
