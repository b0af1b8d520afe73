"""The userland of a Raspberry Pi in a folder, on an emulated processor."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ENVIRONMENT = {"LANG": "C.UTF-8"}
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")  # Debian 12, and those after it

# QEMU 7.2 shows the host's file, where no Arm processor is found (QEMU 10 has its own):
# LiteRT from 2.2 then crashes when it creates an interpreter. So we write the file.
CPUINFO = """processor\t: {core}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
FEATURES = "fp asimd evtstrm crc32 cpuid"
MORE_FEATURES = "aes pmull sha1 sha2 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
PROCESSORS = {
    "cortex-a53": ("0xd03", FEATURES),  # Pi 3, Zero 2 W
    "cortex-a72": ("0xd08", FEATURES),  # Pi 4
    "cortex-a76": ("0xd0b", f"{FEATURES} {MORE_FEATURES}"),  # Pi 5
}


class EmulatedPi:
    """Run Debian's arm64 Python and aarch64 wheels on an emulated processor.

    The packages are unpacked to a folder: nothing is installed on this machine, and
    nobody has to be root. Emulated time is no latency, and Debian builds QEMU without
    the plugins that count instructions: nothing is said about speed.

    Args:
        folder: Folder that takes it all, about 250 MB; new or empty.
        release: Name of the Debian release that Raspberry Pi OS is made from.
        processor: QEMU's name of the processor. Defaults to `"cortex-a72"`, a Pi 4's.

    Example:

    ```python
    pi = EmulatedPi(tmp_path / "pi", release="bookworm")
    pi.install("-r", bundle / "requirements.txt")
    print(pi.python(bundle, "predict", "images.npy"))
    ```
    """

    def __init__(self, folder: Path, *, release: str, processor: str = "cortex-a72"):
        self._emulator = (require_emulator(), "-cpu", processor)
        self._root, self._venv = folder / "root", folder / "venv"
        unpack_debian(folder / "apt", self._root, release)
        write_cpuinfo(self._root, processor)
        # Without pip, which would start another process, without the emulator.
        python = self._root / "usr" / "bin" / "python3"
        self._emulate(python, "-m", "venv", "--without-pip", self._venv)

    def python(self, *arguments: object, **options) -> str:
        """Run the Python of the virtual environment, and return what it prints.

        Args:
            *arguments: Of Python, turned to text.
            **options: Of `subprocess.run`.
        """
        return self._emulate(self._venv / "bin" / "python", *arguments, **options)

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen:
        """Start the Python of the virtual environment with a pipe for its output.

        Args:
            *arguments: As for `python`.
            **environment: Variables of its environment.
        """
        command = self._command(self._venv / "bin" / "python", *arguments)
        environment = {**ENVIRONMENT, **environment}
        output = {"stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, **output)

    def install(self, *requirements: object) -> None:
        """Install the wheels that `pip install` would select there.

        Args:
            *requirements: Arguments of pip, `"numpy"` or `"-r", path`.
        """
        code = "import sys, platform as p; print(p.libc_ver()[1], *sys.version_info)"
        glibc, major, minor, *_ = self.python("-c", code).split()
        oldest, newest = 17, int(glibc.split(".")[1])
        names = [f"manylinux_2_{n}_aarch64" for n in range(oldest, newest + 1)]
        names = ["manylinux2014_aarch64", *names]
        [packages] = self._venv.glob("lib/python*/site-packages")
        _run(
            *(sys.executable, "-m", "pip", "install", "--quiet", "--target", packages),
            *(f"--platform={name}" for name in names),
            *(f"--python-version={major}.{minor}", "--only-binary=:all:"),
            *requirements,
        )

    def _emulate(self, *command, **options):
        return _run(*self._command(*command), env=ENVIRONMENT, **options)

    def _command(self, *command):
        return [*map(str, (*self._emulator, "-L", self._root, *command))]


def require_emulator() -> str:
    """Return the emulator's path; skip the test, or fail, if something is missing.

    It fails if the environment variable `REQUIRE_EMULATED_PI` is set.
    """
    programs = [*filter(None, map(shutil.which, EMULATORS))]
    apt = shutil.which("apt-get") and shutil.which("dpkg-deb")
    if programs and apt and KEYRING.exists():
        return programs[0]
    message = f"needs apt-get, {KEYRING} and QEMU: apt-get install qemu-user-static"
    if os.environ.get("REQUIRE_EMULATED_PI"):
        pytest.fail(message)
    pytest.skip(message)


def write_cpuinfo(root: Path, processor: str) -> None:
    """Write the `/proc/cpuinfo` of four cores, where the emulator looks first."""
    part, features = PROCESSORS[processor]
    cores = (CPUINFO.format(core=n, part=part, features=features) for n in range(4))
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text("".join(cores))


def unpack_debian(
    apt: Path,
    root: Path,
    release: str,
    packages: Sequence[str] = ("python3", "python3-venv", "libstdc++6"),
) -> None:
    """Unpack Debian's arm64 packages and their dependencies to a folder.

    Args:
        apt: New folder for a state of apt of its own.
        root: New folder for what is in the packages.
        release: Name of the release, `"bookworm"`.
        packages: Names of the packages. Defaults to Python's.
    """
    for folder in (apt / "lists" / "partial", apt / "archives" / "partial", root):
        folder.mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(
        f"deb [signed-by={KEYRING}] {MIRROR} {release} main\n"
    )
    (apt / "apt.conf").write_text(
        f"""
        APT {{ Architecture "arm64"; Architectures {{ "arm64"; }}; }};
        APT::Install-Recommends "false";
        APT::Sandbox::User "";
        Dir {{ Etc::sourcelist "{apt}/sources.list"; Etc::sourceparts "-"; }};
        Dir {{ State "{apt}"; State::status "{apt}/status"; Cache "{apt}"; }};
        """
    )
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
    _run("apt-get", "-qq", "update", env=environment)
    install = ("apt-get", "-qq", "--yes", "--download-only", "install")
    _run(*install, *packages, env=environment)
    for package in (apt / "archives").glob("*.deb"):
        _run("dpkg-deb", "--extract", package, root)
    if not (root / "lib").exists():  # merged into /usr since trixie
        (root / "lib").symlink_to("usr/lib")


def _run(*command, **options):
    command = [*map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return done.stdout
