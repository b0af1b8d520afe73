"""Bundles on Raspberry Pi OS's Python and LiteRT's Arm code, emulated."""

import re
import shutil
from pathlib import Path

import numpy as np
import paho
import pytest
from emulated_pi import EmulatedPi, require_emulator
from raspberry_pi_docs import docs_broker, running

from keras_micronets.edge import EnsembleRunner
from keras_micronets.edge.bundle.manifest import Manifest
from keras_micronets.edge.distributed.broker import Broker
from keras_micronets.edge.distributed.gateway import Gateway
from keras_micronets.export import BundleMember, write_single
from keras_micronets.quickstart import load_problem, run_quickstart

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

# The system, the processor, and requirements pinned besides the bundle's.
OLDEST = ("ai-edge-litert==2.1.0", "numpy==2.0.0")
DEVICES = {
    "Pi 4": ("bookworm", "cortex-a72", ()),
    "Pi 3, oldest versions": ("bookworm", "cortex-a53", OLDEST),
    "Pi 5": ("trixie", "cortex-a76", ()),
}

# With the files of the bundle only: outputs and probabilities of each member.
SAY_ALL = """
import sys
import numpy as np
bundle, x, output = sys.argv[1:]
sys.path.insert(0, bundle)
from edge.runner import EnsembleRunner
with EnsembleRunner(bundle) as runner:
    x = runner.preprocess(np.load(x))
    np.savez(output, *[member.predict_raw(x) for member in runner.members])
"""

SAY_SINGLE = """
import sys
import numpy as np
bundle, path, x, output = sys.argv[1:]
sys.path.insert(0, bundle)
from edge.member import Member
np.save(output, Member(path).predict_raw(np.load(x)))
"""

PACKAGES = """
import importlib.metadata, re
for found in importlib.metadata.distributions():
    needs = [need for need in found.requires or [] if "extra ==" not in need]
    print(found.name, *[re.match(r"[\\w.-]+", need)[0] for need in needs])
"""

HARDWARE = """
import ctypes, platform
print(platform.machine(), ctypes.CDLL(None).getauxval(16))
"""
ATOMICS, DOT_PRODUCT = 1 << 8, 1 << 20  # bits of AT_HWCAP: Armv8.1, Armv8.2


@pytest.fixture(scope="module")
def x():
    """All test images of the digits: half of them."""
    return load_problem().test[0]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    require_emulator()  # before anything is trained
    folder = tmp_path_factory.mktemp("digits")
    run_quickstart(
        load_problem(), folder, epochs=4, n_learners=4, n_members=4, verbose=0
    )
    return folder / "bundle"


@pytest.fixture(scope="module")
def expected(bundle, x):
    """Each member's int8 outputs, and the ensemble's probabilities, of this machine."""
    with EnsembleRunner(bundle) as runner:
        rows = runner.preprocess(x)
        raw = [member.predict_raw(rows) for member in runner.members]
        return np.stack(raw), runner.predict(x)


@pytest.fixture(scope="module", params=DEVICES.values(), ids=DEVICES)
def device(request, bundle, tmp_path_factory):
    """Return the emulated Pi with the bundle's requirements, and its processor."""
    release, processor, pins = request.param
    folder = tmp_path_factory.mktemp("pi")
    pi = EmulatedPi(folder, release=release, processor=processor)
    pi.install("-r", bundle / "requirements.txt", *pins)
    yield pi, processor
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pi(device):
    return device[0]


@pytest.fixture
def images(x, tmp_path):
    np.save(tmp_path / "images.npy", x)
    return tmp_path / "images.npy"


def test_only_a_cortex_a76_multiplies_bytes_in_fours(device):
    pi, processor = device
    machine, hardware = pi.python("-c", HARDWARE).split()

    assert machine == "aarch64"
    newer = (ATOMICS | DOT_PRODUCT) if processor == "cortex-a76" else 0
    assert int(hardware) & (ATOMICS | DOT_PRODUCT) == newer


def test_members_return_the_same_integers(pi, bundle, images, expected, tmp_path):
    pi.python("-c", SAY_ALL, bundle, images, tmp_path / "raw.npz")

    with np.load(tmp_path / "raw.npz") as raw:
        received = np.stack([*raw.values()])
    assert received.shape == (len(expected[0]), 899, 10)
    assert received.dtype == "int8"
    np.testing.assert_array_equal(received, expected[0])


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_ensemble_predicts_the_same(pi, bundle, images, expected, tmp_path, zipped):
    if zipped:
        bundle = shutil.make_archive(tmp_path / "bundle", "zip", bundle)
    output = pi.python(bundle, "predict", images, "--output", tmp_path / "out.npy")

    received = np.load(tmp_path / "out.npy")
    # The integers are equal; NumPy's `exp` differs in the last bits of a float32.
    np.testing.assert_allclose(received, expected[1], rtol=0, atol=2.0**-22)
    assert len(output.splitlines()) == len(received)


def test_single_file_predicts_the_same(pi, bundle, images, expected, tmp_path):
    single, output = tmp_path / "single.tflite", tmp_path / "out.npy"
    manifest = Manifest.read(bundle)
    members = [
        BundleMember(member.name, bundle / member.file, from_logits=member.from_logits)
        for member in manifest.members
    ]
    write_single(single, members, temperature=manifest.combination.temperature)
    pi.python("-c", SAY_SINGLE, bundle, single, images, output)

    # The softmax of LiteRT differs from NumPy's.
    np.testing.assert_allclose(np.load(output), expected[1], rtol=0, atol=1e-6)


def test_bench_runs(pi, bundle):
    assert "ensemble" in pi.python(bundle, "bench", "--repeats", 1)


def test_stream_runs(pi, bundle, x, expected, tmp_path):
    np.save(tmp_path / "few.npy", x[:50])
    with open(tmp_path / "few.npy", "rb") as stream:
        output = pi.python(bundle, "predict", "-", stdin=stream)

    classes = [int(line.split()[1]) for line in output.splitlines()]
    np.testing.assert_array_equal(classes, expected[1][:50].argmax(-1))


def test_node_serves_a_gateway_on_another_machine(
    pi, bundle, x, expected, tmp_path, tmp_path_factory
):
    modules = tmp_path / "modules"  # paho-mqtt, of Python alone
    shutil.copytree(Path(paho.__path__[0]), modules / "paho")
    with docs_broker(tmp_path, tmp_path_factory.mktemp("broker")) as broker:
        login = {"ca_file": tmp_path / "ca.pem", "username": "gateway"}
        login["password"] = (tmp_path / "gateway.password").read_text().strip()
        node = pi.start(
            *(bundle, "node", "--broker", broker.address, "--ca", tmp_path / "ca.pem"),
            *("--username", "pi-1", "--password-file", tmp_path / "pi-1.password"),
            PYTHONPATH=str(modules),
        )
        ask = Gateway(bundle, Broker.parse(broker.address, **login))
        with running(node), ask as gateway:
            assert node.stdout.readline().startswith("node pi-1: serving")
            gateway.wait(30)
            answer = gateway.predict(x[:100], deadline=30)
    assert len(answer.members) == len(expected[0])
    np.testing.assert_allclose(
        answer.probabilities, expected[1][:100], rtol=0, atol=2.0**-22
    )


def test_nothing_else_is_installed(pi):
    # Isolated, so that this project in the working folder is not imported.
    output = pi.python("-I", "-c", PACKAGES)
    lines = [line.split() for line in output.splitlines()]
    needs = {_canonical(name): {*map(_canonical, n)} for name, *n in lines}
    wanted, more = set(), {"ai-edge-litert", "numpy"}
    while more - wanted:
        wanted |= more
        more = {name for known in wanted for name in needs.get(known, ())}

    assert {"ai-edge-litert", "numpy"} <= {*needs} <= wanted
    assert not {*needs} & {"keras", "tensorflow", "scikit-learn"}


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()
