import json
import os
import re
import shutil
import ssl
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from raspberry_pi_docs import DOCS, TEXT, commands, docs_broker, program, running, shell
from tiny_tflite import tiny_tflite

from keras_micronets.edge import EnsembleRunner
from keras_micronets.export import BundleMember, write_bundle

UNIT = DOCS / "raspberry-pi" / "micronets-node.service"
SHAPE = (6, 6, 1)  # grey images, and windows of six readings of six sensors


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("docs") / "bundle", new_members(0, 3))


def new_members(start, stop):
    return [
        BundleMember(f"m{seed}", tiny_tflite(seed, shape=SHAPE))
        for seed in range(start, stop)
    ]


@pytest.fixture
def home(bundle, tmp_path):
    """A Pi's home folder, with a bundle and samples."""
    shutil.copytree(bundle, tmp_path / "bundle")
    images = np.random.default_rng(0).normal(size=(3, *SHAPE))
    np.save(tmp_path / "images.npy", images.astype("float32"))
    return tmp_path


@pytest.fixture
def home_with_venv(home):
    """Return the same, with this Python in place of a virtual environment's."""
    program(home / "venv" / "bin" / "python", f'exec {sys.executable} "$@"')
    program(home / "venv" / "bin" / "pip", "true")
    return home


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT))
def test_links_have_targets(link):
    assert (DOCS / link).exists()


@pytest.mark.slow
def test_predictions(home):
    program(home / "bin" / "scp", "true")
    output = shell(commands("Predictions"), home, PIP_QUIET="1").splitlines()

    assert [line.split(":")[0] for line in output[:3]] == ["0", "1", "2"]
    assert any("ensemble" in line for line in output[3:])


def test_photographs(home_with_venv):
    photo = home_with_venv / "camera.jpg"
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), "uint8")
    Image.fromarray(image).save(photo)
    program(home_with_venv / "bin" / "rpicam-still", f"cp {photo} photo.jpg")

    output = shell(commands("Photographs"), home_with_venv)
    assert output.startswith("photo.jpg: ")
    assert len(output.splitlines()) == 1


@pytest.fixture
def readings(home_with_venv):
    """Two windows that do not overlap, and a header."""
    rows = np.random.default_rng(0).normal(size=(12, 6))
    path = home_with_venv / "readings.csv"
    np.savetxt(path, rows, delimiter=",", header="a,b,c,d,e,f", comments="")
    return home_with_venv


def test_sensors(readings):
    output = shell(commands("Sensors"), readings).splitlines()
    assert [line.split(":")[0] for line in output] == ["0", "1"]


def test_stream(readings):
    lines = shell(commands("A stream"), readings).splitlines()
    output = [json.loads(line) for line in lines]
    assert [line["index"] for line in output] == [0, 1]


def test_in_a_program(home_with_venv):
    code = commands("In a program", "python")
    program(home_with_venv / "run", f"exec {sys.executable} -c '{code}'")
    with EnsembleRunner(home_with_venv / "bundle") as runner:
        expected = runner.predict(np.load(home_with_venv / "images.npy")).argmax(-1)
    output = shell("./run", home_with_venv, PYTHONPATH="").splitlines()
    assert output == [str(expected)]


@pytest.mark.slow
def test_message_of_pip_on_32_bits(bundle, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--only-binary=:all:"),
            *("--platform=linux_armv7l", "--platform=manylinux2014_armv7l"),
            *("--python-version=3.11", "--dest", tmp_path),
            *("-r", bundle / "requirements.txt"),
        ],
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert "\n".join(errors) in TEXT


@pytest.fixture
def certificates(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    shell(commands("Certificates"), tmp_path)
    return tmp_path


def test_python_accepts_the_certificates(certificates):
    client = ssl.create_default_context(cafile=certificates / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates / "broker.pem", certificates / "broker.key")

    shake_hands(client, server, "broker.local")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(client, server, "another.local")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(ssl.create_default_context(), server, "broker.local")


def shake_hands(client, server, name):
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    ]
    while ends:
        for end in [*ends]:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def verify(unit):
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    command = ["systemd-analyze", "verify", unit]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("line", ["", "ProtectHomes=yes"], ids=["as it is", "wrong"])
def test_systemd_understands_the_unit(tmp_path, line):
    python = "/opt/micronets/venv/bin/python"
    text = UNIT.read_text()
    assert python in text
    text = text.replace(python, sys.executable)
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("[Service]", f"[Service]\n{line}"))

    done = verify(unit)
    assert ("ProtectHomes" in done.stderr) if line else (done.stderr == "")
    assert done.returncode == 0


@pytest.fixture
def home_with_broker(home_with_venv, tmp_path_factory):
    """The same with a broker, and a link to the bundle that can be replaced."""
    home = home_with_venv
    (home / "bundle").rename(home / "bundle-1")
    (home / "bundle").symlink_to("bundle-1")
    with docs_broker(home, tmp_path_factory.mktemp("broker")) as broker:
        yield home, broker


def of_the_docs():
    return commands("A node").split("\n", 1)[1]


def of_the_unit():
    text = re.search(r"^ExecStart=((?:.*\\\n)*.*)\n", UNIT.read_text(), re.M)[1]
    text = text.replace("${CREDENTIALS_DIRECTORY}/password", "pi-1.password")
    text = text.replace("/opt/micronets/", "").replace(":8883", "")
    return text.replace("\\\n", "")


@pytest.mark.parametrize("command", [of_the_docs, of_the_unit])
def test_node_serves_and_reloads(home_with_broker, command):
    home, broker = home_with_broker
    node = command().replace("broker.local", broker.address)
    node = f"exec {node.strip()}".replace("--members 0", "--members 0,1,2")
    ask = commands("The gateway").replace("broker.local", broker.address)
    process = subprocess.Popen(
        ["sh", "-c", node], cwd=home, stdout=subprocess.PIPE, text=True
    )
    with running(process):
        assert process.stdout.readline().startswith("node pi-1: serving m0, m1, m2 at")
        assert shell(ask, home).splitlines()[2].endswith("(m0, m1, m2)")

        write_bundle(home / "new" / "bundle", new_members(3, 6))
        program(home / "bin" / "sudo", 'exec "$@"')
        program(home / "bin" / "systemctl", f"kill -HUP {process.pid}")
        new = commands("A new bundle").replace("/opt/micronets", str(home))
        shell(new, home / "new", PATH=f"{home}/bin:{os.environ['PATH']}")
        assert process.stdout.readline() == "node pi-1: serving m3, m4, m5, reloaded\n"
        assert shell(ask, home).splitlines()[2].endswith("(m3, m4, m5)")


@pytest.mark.slow
def test_a_service_is_set_up(home):
    program(home / "bin" / "sudo", 'exec "$@"')
    for name in ("ca.pem", "pi-1.password"):
        (home / name).write_text("secret")
    first = re.search(r"```sh\n(.*?)```", TEXT[TEXT.index("## A service") :], re.S)[1]
    shell(first.replace("/opt/micronets", f"{home}/opt"), home, PIP_QUIET="1")

    node = of_the_unit().split("--members")[0].replace("venv/", "opt/venv/")
    output = shell(f"{node.strip()} --help", home)
    assert "--password-file" in output
    assert (home / "opt" / "password").stat().st_mode & 0o777 == 0o600
    assert (home / "opt" / "bundle" / "manifest.json").stat().st_mode & 0o004
