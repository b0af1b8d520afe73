"""The example configuration of the docs: authentication and access rules."""

import numpy as np
import pytest
import trustme
from distributed_cases import Client, until
from mosquitto import Mosquitto, require_mosquitto
from tiny_tflite import samples, tiny_tflite

from keras_micronets.edge import Broker, Gateway, Manifest, Node, NoQuorumError
from keras_micronets.edge.cli import main
from keras_micronets.edge.distributed.message import Message
from keras_micronets.edge.distributed.protocol import NodeDescription
from keras_micronets.export import BundleMember, write_bundle

PASSWORDS = {"node-1": "one", "node-2": "two", "gateway": "three"}
#: paho-mqtt leaves the socket of a failed handshake to the garbage collector.
PAHO = (
    "ignore:unclosed <ssl.SSLSocket:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
pytestmark = [pytest.mark.filterwarnings(PAHO[0]), pytest.mark.filterwarnings(PAHO[1])]
REFUSED = r"accepts this client.*(Not authorized|Bad user name|closed connection)"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    members = [BundleMember(f"m{seed}", tiny_tflite(seed)) for seed in range(2)]
    return write_bundle(tmp_path_factory.mktemp("security") / "bundle", members)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("authority")


@pytest.fixture(scope="module")
def mosquitto(folder, tmp_path_factory):
    require_mosquitto()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    certificate = authority.issue_cert("localhost")
    secure = {
        "ca.pem": authority.cert_pem.bytes(),
        "broker.pem": certificate.cert_chain_pems[0].bytes(),
        "broker.key": certificate.private_key_pem.bytes(),
        "passwords": PASSWORDS,
    }
    with Mosquitto(tmp_path_factory.mktemp("secure"), secure) as mosquitto:
        yield mosquitto


@pytest.fixture
def login(mosquitto, folder):
    """Return a function that describes the broker for a user."""

    def make(user=None, password=None, *, host="localhost", ca="ca.pem"):
        password = password or PASSWORDS.get(user)
        ca_file = folder / ca if ca else None
        return Broker(host, mosquitto.port, user, password, ca_file)

    return make


def test_an_ensemble_with_users_and_certificates(bundle, login):
    with (
        Node(bundle, login("node-1"), members=[0]) as one,
        Node(bundle, login("node-2"), members=[1]),
        Gateway(bundle, login("gateway")) as gateway,
    ):
        assert one.name == "node-1"
        assert gateway.wait(10)
        answer = gateway.predict(samples(2), deadline=20)
        assert answer.nodes == {"m0": "node-1", "m1": "node-2"}
    # Nodes that close are removed.
    with Gateway(bundle, login("gateway")) as gateway:
        assert not gateway.wait(0.05)
        assert gateway.nodes == {}


@pytest.mark.parametrize(
    ("user", "password"),
    [(None, None), ("node-1", "wrong"), ("stranger", "one"), ("node-1", "two")],
)
def test_credentials(bundle, login, user, password):
    for kind in (Node, Gateway):
        with pytest.raises(ConnectionError, match=REFUSED) as caught:
            kind(bundle, login(user, password), name="node-1")
        assert str(password) not in str(caught.value).replace("user name", "")


def test_password_on_the_command_line(
    bundle, login, mosquitto, folder, tmp_path, monkeypatch, capsys
):
    np.save(tmp_path / "x.npy", samples(1))
    address = f"localhost:{mosquitto.port}"
    command = ["ask", str(tmp_path / "x.npy"), "--broker", address, "--ca"]
    command += [str(folder / "ca.pem"), "--username", "gateway", "--deadline", "20"]
    (tmp_path / "password").write_text("three\n")
    with Node(bundle, login("node-1")):
        monkeypatch.setenv("MICRONETS_PASSWORD", "three")
        assert main(command, path=bundle) == 0
        monkeypatch.setenv("MICRONETS_PASSWORD", "wrong")
        with_file = [*command, "--password-file", str(tmp_path / "password")]
        assert main(with_file, path=bundle) == 0
        assert capsys.readouterr().out.count("(m0, m1)") == 2
        assert main(command, path=bundle) == 2
    stderr = capsys.readouterr().err
    assert "error: Expected an MQTT 5 broker" in stderr
    assert "wrong" not in stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca": "other.pem"}, "unable to get local issuer|signature|self-signed"),
        ({"host": "127.0.0.1"}, "IP address mismatch"),
        ({"ca": None}, "Received"),
    ],
)
def test_certificates(bundle, login, options, message):
    for kind in (Node, Gateway):
        with pytest.raises(ConnectionError, match=message):
            kind(bundle, login("node-1", **options))


def test_certificates_that_the_system_does_not_trust(bundle, mosquitto):
    broker = Broker("localhost", mosquitto.port, tls=True)
    with pytest.raises(ConnectionError, match="by a trusted authority"):
        Gateway(bundle, broker)


def test_tls_to_a_broker_without(bundle, folder, mosquitto, tmp_path):
    with Mosquitto(tmp_path) as plain:
        broker = Broker("localhost", plain.port, ca_file=folder / "ca.pem")
        with pytest.raises(ConnectionError, match="Expected a broker with TLS"):
            Gateway(bundle, broker)


def test_a_node_cannot_read_requests_to_others(bundle, login):
    topics = (
        "micronets/nodes/node-1/requests",
        "micronets/nodes/+/requests",
        "micronets/gateways/#",
        "micronets/nodes/+",
        "#",
    )
    with (
        Client(login("node-2"), *topics, name="spy") as spy,
        Node(bundle, login("node-1")),
        Gateway(bundle, login("gateway")) as gateway,
    ):
        assert gateway.wait(10)
        gateway.predict(samples(1), deadline=20)
        topic = "micronets/nodes/node-2/requests"
        with Client(login("gateway"), name="gateway-2") as client:
            client.say(Message(topic, b"last"))
        until(lambda: any(m.payload == b"last" for m in spy.messages))
        # It may read its own description, and nothing else.
        assert {message.topic for message in spy.messages} == {topic}


@pytest.fixture
def second(bundle, login):
    with Client(login("node-2"), name="node-2") as client:
        yield client


def test_a_node_cannot_publish_as_another(bundle, login, second):
    digest = Manifest.read(bundle).digest
    with (
        Node(bundle, login("node-1"), members=[0]),
        Gateway(bundle, login("gateway"), quorum=1) as gateway,
    ):
        until(lambda: gateway.nodes == {"node-1": ("m0",)})
        described = NodeDescription(digest, ("m0", "m1"), 9, "x")
        for name in ("node-1", "node-3"):
            topic = f"micronets/nodes/{name}"
            second.say(described.to_message(topic, 60))
            second.say(Message(topic, retain=True))
            second.say(Message(f"{topic}/requests", b"garbage"))
        second.say(Message("micronets/gateways/gateway/answers/node-1", b"garbage"))
        # A permitted message comes last, and so shows that all others were handled.
        second.say(Message("micronets/gateways/gateway/answers/node-2", b"garbage"))
        until(lambda: gateway.statistics.get("late") == 1)
        assert gateway.nodes == {"node-1": ("m0",)}
        assert gateway.predict(samples(1), deadline=20).members == ("m0",)


def test_a_node_with_the_name_of_another_is_rejected(bundle, login):
    with pytest.raises(ConnectionError, match="right to publish"):
        Node(bundle, login("node-2"), name="node-1")


def test_a_gateway_without_rights_gets_no_result(bundle, login, caplog):
    with (
        Node(bundle, login("node-1")),
        Gateway(bundle, login("node-2")) as gateway,
    ):
        with pytest.raises(NoQuorumError):
            gateway.predict(samples(1), deadline=0.2)
        assert gateway.nodes == {}
