"""Nodes and a gateway with a real broker."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from distributed_cases import Client, NodeProcess, until
from mosquitto import Mosquitto, free_port, require_mosquitto
from tiny_tflite import SHAPE, samples, tiny_tflite

from keras_micronets.edge import (
    Broker,
    EnsembleRunner,
    Gateway,
    Manifest,
    Node,
    NoQuorumError,
    OverloadedError,
    combine,
)
from keras_micronets.edge.cli import main
from keras_micronets.edge.distributed import node as node_module
from keras_micronets.edge.distributed.message import Message, pack, unpack
from keras_micronets.edge.distributed.protocol import (
    NodeDescription,
    NodeRequest,
    NodeResponse,
)
from keras_micronets.export import BundleMember, write_bundle

WEIGHTS = [0.5, 0.25, 0.25]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    members = [BundleMember(f"m{seed}", tiny_tflite(seed)) for seed in range(3)]
    return write_bundle(
        tmp_path_factory.mktemp("distributed") / "bundle",
        members,
        class_names=["cat", "dog", "owl"],
        combination="weights",
        weights=WEIGHTS,
        temperature=1.7,
    )


@pytest.fixture(scope="module")
def alone(bundle):
    with EnsembleRunner(bundle) as runner:
        yield runner


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    require_mosquitto()
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as mosquitto:
        yield mosquitto


def check(answer, alone, x):
    """Check that a result is the combination of the members that it names."""
    indices = [int(name[1:]) for name in answer.members]
    weights = np.take(WEIGHTS, indices)
    weights /= sum(weights)
    members = alone.predict_members(x)[indices]
    expected = combine(members, rule="weights", weights=weights, temperature=1.7)
    np.testing.assert_array_equal(answer.probabilities, expected)


def test_an_ensemble_over_two_nodes(bundle, broker, prefix, alone):
    x = samples(5)
    with (
        Node(bundle, broker, members=[0, 2], name="one", prefix=prefix),
        Node(bundle, broker, members=[1], name="two", prefix=prefix),
        Gateway(bundle, broker, prefix=prefix) as gateway,
    ):
        assert gateway.wait(10)
        answer = gateway.predict(x, deadline=20)
        np.testing.assert_array_equal(answer.probabilities, alone.predict(x))
        assert answer.members == ("m0", "m1", "m2")
        assert answer.nodes == {"m0": "one", "m1": "two", "m2": "one"}
        futures = [gateway.submit(x[[i % 5]], deadline=20) for i in range(50)]
        for i, future in enumerate(futures):
            check(future.result(), alone, x[[i % 5]])
        assert gateway.nodes == {"one": ("m0", "m2"), "two": ("m1",)}
    for call in (lambda: gateway.predict(x), lambda: gateway.wait(0)):
        with pytest.raises(ConnectionError, match="closed"):
            call()


def test_without_all_members(bundle, broker, prefix, alone):
    x = samples(2)
    with (
        Node(bundle, broker, members=[0, 2], name="one", prefix=prefix) as one,
        Gateway(bundle, broker, prefix=prefix) as gateway,
    ):
        until(lambda: gateway.nodes)
        assert not gateway.wait(0.01)
        answer = gateway.predict(x, deadline=20)
        assert answer.missing == ("m1",)
        check(answer, alone, x)
        one.close()
        with pytest.raises(ConnectionError, match="closed"):
            one.reload()
        until(lambda: not gateway.nodes)
        with pytest.raises(NoQuorumError, match="Expected responses of 2") as caught:
            gateway.predict(x, deadline=0.05)
        assert caught.value.missing == ("m0", "m1", "m2")
        future = gateway.submit(x, deadline=20)
        with Node(bundle, broker, name="late", prefix=prefix):
            check(future.result(20), alone, x)


def test_bad_input_is_rejected_at_once(bundle, broker, prefix):
    with Gateway(bundle, broker, prefix=prefix, max_pending=1) as gateway:
        for bad in (np.zeros(SHAPE), np.full((1, *SHAPE), np.nan), np.array(["a"])):
            with pytest.raises(ValueError, match="Expected"):
                gateway.submit(bad)
        for seconds in (0, -1, np.inf, np.nan):
            with pytest.raises(ValueError, match="deadline"):
                gateway.submit(samples(1), deadline=seconds)
        future = gateway.submit(samples(1), deadline=30)
        with pytest.raises(OverloadedError):
            gateway.submit(samples(1))
    with pytest.raises(ConnectionError, match="closed"):
        future.result(0)
    with pytest.raises(ValueError, match="quorum"):
        Gateway(bundle, broker, quorum=4)
    with pytest.raises(ValueError, match="gateway's name"):
        Gateway(bundle, broker, name="a/b")
    with pytest.raises(ValueError, match="node's name"):
        Node(bundle, broker, name="#")


class Asker:
    """Send messages as a gateway does."""

    def __init__(self, client, prefix, members=("m0",)):
        self.client, self.prefix, self.members = client, prefix, members

    def ask(self, payload, number=1, **fields):
        request = NodeRequest(
            number.to_bytes(16), "by-hand", self.members, 20.0, payload
        )
        message = request.to_message(f"{self.prefix}/nodes/one/requests")
        message.fields.update(fields)
        self.client.say(message)

    def response(self):
        return NodeResponse.from_message(self.client.get())


def test_a_node_survives_garbage_and_serves_each_request(bundle, broker, prefix, alone):
    x, digest = samples(1), Manifest.read(bundle).digest
    with (
        Node(bundle, broker, members=[0], name="one", prefix=prefix) as node,
        Client(broker, f"{prefix}/gateways/by-hand/answers/+") as client,
    ):
        by_hand = Asker(client, prefix)
        topic = f"{prefix}/nodes/one/requests"
        client.say(Message(topic, b"garbage"))
        client.say(Message(topic, b"", bytes(16), fields={"members": "[" * 50_000}))
        by_hand.ask(pack(x), within="-1")
        by_hand.ask(pack(x), gateway="a/#")
        for number, payload in enumerate([b"", b"x", pack(x[0]), pack(x * np.nan)]):
            by_hand.ask(payload, number)
            assert "Error" in by_hand.response().error
        by_hand.ask(pack(x), 10, members='["m1"]')
        assert "Expected members" in by_hand.response().error
        expected = alone.predict_members(x)[:1]
        for _ in range(3):
            by_hand.ask(pack(x), 11)
            response = by_hand.response()
            assert (response.members, response.digest) == (("m0",), digest)
            np.testing.assert_array_equal(unpack(response.payload), expected)
        assert node.statistics["repeated"] == 2
        assert node.statistics["malformed"] == 4
        assert node.statistics["answered"] == 1


def test_a_busy_node_and_expired_requests(bundle, broker, prefix, monkeypatch):
    with (
        Node(bundle, broker, name="one", prefix=prefix, capacity=2) as node,
        Client(broker, f"{prefix}/gateways/by-hand/answers/+") as client,
    ):
        by_hand = Asker(client, prefix)
        wait, go = os.pipe()
        monkeypatch.setattr(node_module, "predict", lambda *_: os.read(wait, 1))
        by_hand.ask(pack(samples(1)), 1)
        by_hand.ask(pack(samples(1)), 2, within="1e-9")
        by_hand.ask(pack(samples(1)), 3)
        assert by_hand.response().error == "busy"
        os.write(go, b"xx")
        assert by_hand.response().id == (1).to_bytes(16)
        until(lambda: node.statistics["expired"] == 1)
        os.close(wait)
        os.close(go)


class Rogue:
    """Publish arbitrary responses as a node."""

    def __init__(self, client, prefix, digest):
        self.client, self.prefix, self.digest = client, prefix, digest

    def announce(self, members=("m0", "m1", "m2"), name="rogue", expires=60, **values):
        values = {"capacity": 8, "session": "1", "digest": self.digest, **values}
        description = NodeDescription(members=members, **values)
        message = description.to_message(f"{self.prefix}/nodes/{name}", 60)
        self.client.say(dataclasses.replace(message, expires=expires))

    def request(self):
        return NodeRequest.from_message(self.client.get())

    def answer(self, request, array, name="rogue", digest=None):
        payload = array if isinstance(array, bytes) else pack(array)
        response = NodeResponse(
            request.id, request.members, digest or self.digest, payload
        )
        topic = f"{self.prefix}/gateways/{request.gateway}/answers/{name}"
        self.client.say(response.to_message(topic, 9))


@pytest.fixture
def rogue(bundle, broker, prefix):
    with Client(broker, f"{prefix}/nodes/rogue/requests") as client:
        yield Rogue(client, prefix, Manifest.read(bundle).digest)


def test_a_gateway_survives_garbage(bundle, broker, prefix, alone, rogue):
    x = samples(2)
    right = alone.predict_members(x)
    with Gateway(bundle, broker, prefix=prefix, name="door") as gateway:
        rogue.client.say(Message(f"{prefix}/nodes/rogue", b"garbage", expires=60))
        rogue.client.say(Message(f"{prefix}/gateways/door/answers/rogue", b"garbage"))
        rogue.announce(expires=None)
        rogue.announce(digest="other")
        until(lambda: gateway.statistics.get("other_bundle"))
        rogue.announce()
        assert gateway.wait(10)
        for bad in (
            b"garbage",
            right[:2],
            right.astype("float64"),
            right * np.nan,
            right - 1,
            right[:, :1],
        ):
            future = gateway.submit(x, deadline=0.4)
            request = rogue.request()
            rogue.answer(request, right, name="other")
            rogue.answer(request, bad)
            again = rogue.request()
            rogue.answer(again, right, digest="other")
            with pytest.raises(NoQuorumError):
                future.result(5)
            rogue.client.messages.clear()
        future = gateway.submit(x, deadline=20)
        request = rogue.request()
        rogue.answer(request, right)
        rogue.answer(request, right)
        check(future.result(5), alone, x)
        until(lambda: gateway.statistics.get("duplicate"))
        assert gateway.statistics["unexpected"] == 6
        assert gateway.statistics["invalid"] == 12
        assert gateway.statistics["malformed"] == 2
        assert gateway.statistics["late"] == 1


def test_a_replica_replaces_a_node_with_invalid_responses(
    bundle, broker, prefix, alone, rogue
):
    x = samples(2)
    with (
        Node(bundle, broker, name="good", prefix=prefix),
        Gateway(bundle, broker, prefix=prefix) as gateway,
    ):
        rogue.announce()
        until(lambda: len(gateway.nodes) == 2)
        future = gateway.submit(x, deadline=20)
        rogue.answer(rogue.request(), b"garbage")
        answer = future.result(10)
        check(answer, alone, x)
        assert {*answer.nodes.values()} == {"good"}


def test_no_request_is_lost_while_the_broker_restarts(bundle, tmp_path, alone):
    require_mosquitto()
    x = samples(1)
    with Mosquitto(tmp_path) as mosquitto:
        broker = Broker(mosquitto.host, mosquitto.port)
        with Node(bundle, broker, name="one"), Gateway(bundle, broker) as gateway:
            assert gateway.wait(10)
            for number in (signal.SIGTERM, signal.SIGKILL):
                mosquitto.stop(number)
                futures = [gateway.submit(x, deadline=30) for _ in range(5)]
                mosquitto.start()
                for future in futures:
                    check(future.result(30), alone, x)


def test_a_name_has_one_node(bundle, broker, prefix, alone):
    failed = []
    with (
        Gateway(bundle, broker, prefix=prefix) as gateway,
        Node(bundle, broker, name="one", prefix=prefix, on_failed=failed.append) as old,
    ):
        with Node(bundle, broker, name="one", prefix=prefix) as new:
            assert old.wait(10)
            assert failed == [old.failed]
            assert "has the name 'one'" in old.failed
            old.close()
            check(gateway.predict(samples(1), deadline=20), alone, samples(1))
            assert not new.failed
        until(lambda: not gateway.nodes)


def test_a_node_outlives_the_will_of_its_predecessor(bundle, broker, prefix):
    with (
        Gateway(bundle, broker, prefix=prefix) as gateway,
        Node(bundle, broker, name="one", prefix=prefix),
        Client(broker, f"{prefix}/nodes/one") as client,
    ):
        assert client.get().payload
        client.say(Message(f"{prefix}/nodes/one", retain=True))
        assert client.get().payload == b""
        assert client.get().payload
        assert gateway.wait(10)


def test_a_node_reloads_its_bundle(bundle, broker, prefix, tmp_path, alone):
    path = tmp_path / "bundle"
    shutil.copytree(bundle, path)
    other = write_bundle(
        tmp_path / "other", [BundleMember("other", tiny_tflite(7))], class_names=None
    )
    with Node(path, broker, name="one", prefix=prefix) as node:
        (path / "00-m0.tflite").write_bytes(b"damage")
        with pytest.raises(ValueError, match="00-m0"):
            node.reload()
        with Gateway(bundle, broker, prefix=prefix) as gateway:
            assert gateway.wait(10)
            check(gateway.predict(samples(1), deadline=20), alone, samples(1))
        shutil.rmtree(path)
        shutil.copytree(other, path)
        node.reload()
        with Gateway(other, broker, prefix=prefix) as gateway:
            assert gateway.wait(10)
            assert gateway.predict(samples(1), deadline=20).members == ("other",)


def test_no_broker(bundle):
    for kind in (Node, Gateway):
        with pytest.raises(ConnectionError, match="Expected an MQTT broker at 127"):
            kind(bundle, Broker("127.0.0.1", free_port()), name="one")


def test_node_and_ask_on_the_command_line(bundle, broker, alone, tmp_path, capsys):
    images, x = tmp_path / "x.npy", samples(3)
    np.save(images, x)
    log = tmp_path / "log"
    node = NodeProcess(bundle, broker, "one", "m2,0", log=log).start()
    try:
        node.wait()
        arguments = ["ask", str(images), "--broker", str(broker), "--batch-size", "2"]
        output = ["--output", str(tmp_path / "out.npy"), "--deadline", "20"]
        with Node(bundle, broker, members=[1], name="two"):
            assert main([*arguments, *output], path=bundle) == 0
        expected = alone.predict(x)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
        lines = capsys.readouterr().out.splitlines()
        best = int(expected[0].argmax())
        name = alone.class_names[best]
        assert lines[0] == f"0: {best} {name} {expected[0, best]:.4f}  (m0, m1, m2)"
        assert len(lines) == 3
        assert main([*arguments, "--deadline", "0.5"], path=bundle) == 0
        assert "(m0, m2; without m1)" in capsys.readouterr().out
        node.signal(signal.SIGHUP)
        assert "reloaded" in node.process.stdout.readline().decode()
        node.signal(signal.SIGTERM)
        assert node.process.wait(10) == 0
        assert "Lost" not in log.read_text()
        assert main([*arguments, "--deadline", "0.1"], path=bundle) == 2
        assert "Expected responses of 2 members" in capsys.readouterr().err
    finally:
        node.stop()


def test_a_stream_survives_missed_deadlines(bundle, broker, prefix, alone, tmp_path):
    x, output = samples(3), tmp_path / "out.npy"
    command = [sys.executable, bundle, "ask", "-", "--broker", broker]
    command += ["--prefix", prefix, "--deadline", "1", "--output", output]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([*map(str, command)], bufsize=0, **pipes)
    watch = threading.Timer(30, process.kill)
    watch.start()
    try:
        with Node(bundle, broker, name="one", prefix=prefix):
            np.save(process.stdin, x[0])
            assert process.stdout.readline().startswith(b"0: ")
        np.save(process.stdin, x[1])
        assert b"error: Expected responses of 2 members" in process.stderr.readline()
        with Node(bundle, broker, name="two", prefix=prefix):
            np.save(process.stdin, x[2])
            assert process.stdout.readline().startswith(b"2: ")
        _, errors = process.communicate(timeout=20)
    finally:
        watch.cancel()
        process.kill()
        process.communicate()
    assert process.returncode == 2
    summary = b"summary: 2 samples predicted, 1 rows or samples skipped"
    assert errors.splitlines() == [summary]
    saved = np.load(output)
    np.testing.assert_array_equal(saved[[0, 2]], alone.predict(x[[0, 2]]))
    assert np.isnan(saved[1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--members", "9"], "distinct member indices from 0 to 2"),
        (["--members", "nobody"], "names out of ['m0', 'm1', 'm2']"),
        (["--broker", "a:b"], "HOST:PORT"),
        (["--password-file", "absent"], "absent"),
        (["--ca", "absent"], "absent"),
        (["--public-key", "absent.pem", "--bundle", "{bundle}"], "Expected a signed"),
    ],
)
def test_bad_arguments(bundle, arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    arguments = [argument.format(bundle=bundle) for argument in arguments]
    command = ["node", "--broker", "127.0.0.1", *arguments]
    other = tmp_path if "--bundle" in arguments else bundle
    assert main(command, path=other) == 2
    assert message in capsys.readouterr().err


def test_without_paho(bundle):
    code = (
        "import sys; sys.modules['paho'] = None; sys.modules['paho.mqtt'] = None\n"
        "from keras_micronets import edge\n"
        "assert not any('distributed' in name for name in sys.modules)\n"
        "edge.Broker, edge.NoQuorumError\n"
        f"edge.Gateway({str(bundle)!r}, edge.Broker())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: Expected paho-mqtt" in done.stderr
    assert "pip install paho-mqtt" in done.stderr
