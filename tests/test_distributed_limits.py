"""Messages that are too large for the broker, and replicas that are too slow."""

import time

import numpy as np
import pytest
from distributed_cases import Client, until
from mosquitto import Mosquitto, require_mosquitto
from tiny_tflite import samples, tiny_tflite

from keras_micronets.edge import Broker, EnsembleRunner, Gateway, Node, NoQuorumError
from keras_micronets.edge.distributed import connection as connection_module
from keras_micronets.edge.distributed import registry as registry_module
from keras_micronets.edge.distributed.message import (
    MAX_PACKET,
    pack,
    split_samples,
    unpack,
)
from keras_micronets.edge.distributed.protocol import NodeRequest, NodeResponse
from keras_micronets.export import BundleMember, write_bundle

#: Bytes of a packet, the default limit of Mosquitto 2.1.
LIMIT = 2_000_000
REPEATS = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    members = [BundleMember(f"m{seed}", tiny_tflite(seed)) for seed in range(2)]
    return write_bundle(tmp_path_factory.mktemp("limits") / "bundle", members)


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory):
    """A bundle of two members that repeat four numbers, and three times these."""
    members = [
        BundleMember(f"m{i}", _repeat(factor), task="regression")
        for i, factor in enumerate((1, 3))
    ]
    return write_bundle(tmp_path_factory.mktemp("wide") / "bundle", members)


def _convert(function, shape):
    """Return the bytes of a `.tflite` file for one sample of a function."""
    import tensorflow as tf

    call = tf.function(function).get_concrete_function(tf.TensorSpec((1, *shape)))
    return tf.lite.TFLiteConverter.from_concrete_functions([call]).convert()


def _repeat(factor):
    import tensorflow as tf

    return _convert(lambda x: tf.tile(x, [1, REPEATS]) * factor, (4,))


def _brightness(shape):
    import tensorflow as tf

    def share(x):
        bright = tf.reduce_mean(x, [1, 2, 3]) / 255
        return tf.stack([bright, 1 - bright], -1)

    return _convert(share, shape)


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    require_mosquitto()
    folder, settings = (
        tmp_path_factory.mktemp("mosquitto"),
        [f"max_packet_size {LIMIT}"],
    )
    with Mosquitto(folder, settings=settings) as mosquitto:
        yield mosquitto


def test_a_batch_larger_than_the_limit_is_sent_in_parts(bundle, broker, prefix):
    count = 2_050_000 // samples(1).nbytes
    x = samples(count)
    with (
        EnsembleRunner(bundle) as alone,
        Node(bundle, broker, members=[0], name="one", prefix=prefix),
        Node(bundle, broker, members=[1], name="two", prefix=prefix),
        Gateway(bundle, broker, prefix=prefix) as gateway,
    ):
        assert gateway.wait(10)
        answer = gateway.predict(x, deadline=30)
        np.testing.assert_array_equal(answer.probabilities, alone.predict(x))
        assert answer.nodes == {"m0": "one", "m1": "two"}
        assert gateway.statistics["requests"] == 2
        assert gateway.statistics["sent"] == 4
        empty = gateway.predict(x[:0], deadline=30)
        assert empty.probabilities.shape == (0, 3)


def test_a_sample_larger_than_the_limit_is_rejected_at_once(tmp_path, broker, prefix):
    shape = (420, 600, 2)
    member = BundleMember("m", _brightness(shape))
    bundle = write_bundle(tmp_path / "bundle", [member])
    x = np.random.default_rng(0).integers(0, 255, (1, *shape), "uint8")
    with (
        EnsembleRunner(bundle) as alone,
        Node(bundle, broker, name="one", prefix=prefix),
        Gateway(bundle, broker, prefix=prefix) as gateway,
    ):
        assert gateway.wait(10)
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"max_packet_size.*: 2,016,000 bytes"):
            gateway.submit(x.astype("float32"), deadline=30)
        assert time.monotonic() - start < 1
        answer = gateway.predict(x, deadline=30)
        np.testing.assert_array_equal(answer.probabilities, alone.predict(x))


def test_answers_larger_than_the_limit(wide_bundle, broker, prefix):
    x = np.random.default_rng(0).integers(0, 255, (2000, 4), "uint8")
    expected = np.tile(x, [1, REPEATS]).astype("float32")
    with (
        Node(wide_bundle, broker, name="one", prefix=prefix) as node,
        Gateway(wide_bundle, broker, prefix=prefix) as gateway,
        Client(broker, f"{prefix}/gateways/by-hand/answers/+") as client,
    ):
        assert gateway.wait(10)
        answer = gateway.predict(x, deadline=30)
        np.testing.assert_array_equal(answer.probabilities, expected * 2)
        assert gateway.statistics["requests"] == 3  # 2000 x 2 x 1024 bytes
        responses = []
        for number, names, part in (
            (1, ("m0", "m1"), x),
            (2, ("m0",), x[:1900]),
        ):
            by_hand = NodeRequest(bytes([number] * 16), "by-hand", names, 9, pack(part))
            client.say(by_hand.to_message(f"{prefix}/nodes/one/requests"))
            responses.append(NodeResponse.from_message(client.get()))
        refused, response = responses
        assert "at most 2,000,000 bytes" in refused.error
        assert (refused.payload, response.error) == (b"", "")
        np.testing.assert_array_equal(unpack(response.payload)[0], expected[:1900])
        assert node.statistics["dropped"] == 1


def test_one_answer_holds_fewer_members(wide_bundle, tmp_path):
    """A prediction of one member fits into a message, those of two do not."""
    require_mosquitto()
    x = np.ones((4, 4), "float32")
    with Mosquitto(tmp_path, settings=["max_packet_size 2500"]) as mosquitto:
        broker = Broker(mosquitto.host, mosquitto.port)
        with Node(wide_bundle, broker), Gateway(wide_bundle, broker) as gateway:
            assert gateway.wait(10)
            answer = gateway.predict(x, deadline=30)
            np.testing.assert_array_equal(answer.probabilities, np.full((4, 256), 2.0))
            assert gateway.statistics["sent"] == 8


def test_a_broker_that_restarts_with_a_lower_limit(bundle, tmp_path):
    require_mosquitto()
    with Mosquitto(tmp_path) as mosquitto:
        broker = Broker(mosquitto.host, mosquitto.port)
        with Node(bundle, broker, name="one"), Gateway(bundle, broker) as gateway:
            assert gateway.wait(10)
            mosquitto.stop()
            future = gateway.submit(samples(1000), deadline=60)
            small = gateway.submit(samples(1), deadline=60)
            mosquitto.settings = ["max_packet_size 100000"]
            mosquitto.start()
            with pytest.raises(ConnectionError, match="at most 100,000 bytes"):
                future.result(30)
            assert small.result(30).members == ("m0", "m1")
            assert gateway.predict(samples(1000), deadline=60).members == ("m0", "m1")


def test_a_message_that_breaks_the_connection_is_dropped(
    bundle, broker, prefix, monkeypatch
):
    """The broker does not announce its limit, and closes the connection instead."""
    monkeypatch.setattr(connection_module, "_maximum_packet_size", lambda _: MAX_PACKET)
    with (
        Node(bundle, broker, name="one", prefix=prefix),
        Gateway(bundle, broker, prefix=prefix) as gateway,
    ):
        assert gateway.wait(10)
        large = gateway.submit(samples(8000), deadline=60)
        small = gateway.submit(samples(1), deadline=60)
        with pytest.raises(ConnectionError, match="was lost 2 times"):
            large.result(30)
        assert small.result(30).members == ("m0", "m1")
        assert gateway.predict(samples(1), deadline=60).members == ("m0", "m1")
        assert gateway.statistics["dropped"] == 1


def test_a_node_is_not_asked_again_for_a_response_that_breaks_the_connection(
    wide_bundle, broker, prefix, monkeypatch
):
    x = np.ones((2000, 4), "float32")
    monkeypatch.setattr(connection_module, "_maximum_packet_size", lambda _: MAX_PACKET)
    with (
        Node(wide_bundle, broker, name="one", prefix=prefix) as node,
        Gateway(wide_bundle, broker, prefix=prefix) as gateway,
    ):
        assert gateway.wait(10)
        with pytest.raises(NoQuorumError, match=r"'one': 'it was lost 2 times"):
            gateway.predict(x, deadline=2.5)
        assert node.statistics["new"] == 2
        answer = gateway.predict(x[:2], deadline=30)
        np.testing.assert_array_equal(answer.probabilities, np.full((2, 256), 2.0))


def test_samples_are_split_by_size_and_number():
    x = {"a": np.arange(10.0), "b": np.arange(20).reshape(10, 2)}  # 24 bytes a sample
    parts = split_samples(x, 2 * 512 + 3 * 24, 100)
    assert [len(part["a"]) for part in parts] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([p["b"] for p in parts]), x["b"])
    assert len(split_samples(x, 10_000, 1)) == 10
    assert len(split_samples(np.zeros((0, 3)), 10_000, 1)) == 1
    with pytest.raises(ValueError, match=r"at most 23 bytes.* 24 bytes"):
        split_samples(x, 2 * 512 + 23, 1)


class LateNode(Node):
    """Answer every request after its deadline, or never."""

    seconds = 0.7

    def _predict(self, request):
        self._stopping.wait(self.seconds)
        return super()._predict(request)


class SilentNode(LateNode):
    """Take requests and answer none."""

    def _predict(self, request):
        return None


@pytest.mark.parametrize("bad", [LateNode, SilentNode])
def test_a_replica_that_is_always_late_loses_its_place(bundle, broker, prefix, bad):
    x, deadline = samples(1), 0.5
    with (
        EnsembleRunner(bundle) as alone,
        bad(bundle, broker, name="bad", prefix=prefix) as node,
        Node(bundle, broker, name="good", prefix=prefix),
        Gateway(bundle, broker, prefix=prefix, deadline=deadline) as gateway,
    ):
        until(lambda: len(gateway.nodes) == 2)
        expected, seconds = alone.predict(x), []
        for _ in range(60):
            answer = gateway.predict(x)
            np.testing.assert_array_equal(answer.probabilities, expected)
            assert {*answer.nodes.values()} == {"good"}
            seconds.append(answer.seconds)
        # Only requests before the first late answer wait for half of the deadline.
        assert sum(s >= deadline / 2 for s in seconds[:10]) <= 2
        assert sum(s >= deadline / 2 for s in seconds[10:]) <= 2
        assert np.median(seconds) < 0.1
        assert node.statistics["new"] <= 10


def test_a_demoted_replica_is_probed_and_returns(bundle, broker, prefix, monkeypatch):
    monkeypatch.setattr(registry_module, "PROBE_SECONDS", 0.05)
    with (
        LateNode(bundle, broker, name="bad", prefix=prefix) as node,
        Node(bundle, broker, name="good", prefix=prefix),
        Gateway(bundle, broker, prefix=prefix, deadline=0.5) as gateway,
    ):
        until(lambda: len(gateway.nodes) == 2)
        for _ in range(10):
            gateway.predict(samples(1))
        node.seconds = 0.0
        until(lambda: "bad" in gateway.predict(samples(1)).nodes.values())
        assert gateway.statistics["probes"] > 0
        seconds = [gateway.predict(samples(1)).seconds for _ in range(20)]
        assert np.median(seconds) < 0.1
