import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keras_micronets.edge.distributed import message as npy
from keras_micronets.edge.distributed.broker import Broker
from keras_micronets.edge.distributed.message import (
    MAX_PAYLOAD,
    LRUCache,
    Message,
    Topics,
    check_name,
)
from keras_micronets.edge.distributed.node import Inbox, Verdict
from keras_micronets.edge.distributed.protocol import (
    NodeDescription,
    NodeRequest,
    NodeResponse,
)

ID = bytes(range(16))
REQUEST = NodeRequest(ID, "gateway", ("a", "ö"), 1.5, b"payload")
DESCRIPTION = NodeDescription("abc", ("a", "b"), 8, "0123")


def npy_bytes(header, data=b"", version=1):
    header = header.encode("latin1") + b"\n"
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + len(header).to_bytes(2, "little")
        + header
        + data
    )


def described(**values):
    defaults = {"descr": "<f4", "fortran_order": False, "shape": (2,)}
    return npy_bytes(repr({**defaults, **values}), b"\0" * 8)


@given(
    npst.arrays(
        st.sampled_from(["f4", "f8", ">f4", "i1", "u2", "?", "f2"]),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    ),
    st.sampled_from("CF"),
)
def test_arrays_round_trip(array, order):
    array = np.asarray(array, order=order)
    back = npy.unpack(npy.pack(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"\x93NUMPY",
        described(shape=(3,)),
        described(shape=(2**62, 4)),
        described(shape=(-1, -2)),
        described(shape=(True, 2)),
        described(shape=(1,) * 40),
        described(shape=2),
        described(descr="|O"),
        described(descr="<U2"),
        described(descr=[("a", "<f4")]),
        described(descr="nonsense"),
        npy_bytes("{" * 300),
        npy_bytes("[" * 250 + "]" * 250),
        npy_bytes(" " * 2000 + repr({})),
        described() + b"more",
        described()[:-1],
        npy.pack(np.zeros(2, "f4")).replace(b"NUMPY\x01", b"NUMPY\x02"),
    ],
)
def test_bytes_that_are_not_arrays(data):
    with pytest.raises(ValueError, match="Expected"):
        npy.unpack(data)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_an_array_or_rejected(data, begins_well):
    with contextlib.suppress(ValueError):
        npy.unpack(b"\x93NUMPY\x01\x00" + data if begins_well else data)


def test_pickles_and_objects_are_rejected():
    file = io.BytesIO()
    np.save(file, np.array([print]), allow_pickle=True)
    with pytest.raises(ValueError, match="Expected"):
        npy.unpack(file.getvalue())
    with pytest.raises(ValueError, match="Expected numbers"):
        npy.pack(np.array([print]))


def test_sizes_are_limited(monkeypatch):
    monkeypatch.setattr(npy, "MAX_PAYLOAD", 1000)
    with pytest.raises(ValueError, match="fewer samples"):
        npy.pack(np.zeros(1000, "i1"))
    with pytest.raises(ValueError, match="at most 1,000 bytes"):
        npy.unpack(bytes(1001))


def test_request_round_trip():
    message = REQUEST.to_message("topic")
    assert (message.topic, message.expires) == ("topic", 2)
    assert NodeRequest.from_message(message) == REQUEST


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gateway", "a/b"),
        ("gateway", "+"),
        ("gateway", None),
        ("within", "soon"),
        ("within", "nan"),
        ("within", "inf"),
        ("within", "-1"),
        ("within", None),
        ("members", "a"),
        ("members", "[]"),
        ("members", "[1]"),
        ("members", '["a", "a"]'),
        ("members", "[" * 100_000),
        ("members", json.dumps([str(i) for i in range(2000)])),
        ("members", None),
    ],
)
def test_bad_requests(field, value):
    fields = dict(REQUEST.to_message("").fields)
    fields.pop(field)
    if value is not None:
        fields[field] = value
    with pytest.raises(ValueError, match="Expected"):
        NodeRequest.from_message(Message("", b"", ID, 1, fields))


def test_request_without_an_id():
    message = Message("", b"", b"short", 1, REQUEST.to_message("").fields)
    with pytest.raises(ValueError, match="16 bytes"):
        NodeRequest.from_message(message)


def response(array, members=("a", "b"), digest="abc", **values):
    message = NodeResponse(ID, members, digest, npy.pack(array), **values).to_message(
        "", 1
    )
    return NodeResponse.from_message(message)


def probabilities(dtype="float32", members=2):
    return np.full((members, 3, 4), 0.25, dtype)


def test_response_round_trip():
    array = probabilities()
    back = response(array).predictions(("a", "b"), "abc", (3, 4))
    np.testing.assert_array_equal(back, array)
    assert response(array, error="busy").error == "busy"


@pytest.mark.parametrize(
    "bad",
    [
        response(probabilities(), ("a",)),
        response(probabilities(), ("b", "a")),
        response(probabilities(), digest="other"),
        response(probabilities("float64")),
        response(probabilities(members=1)),
        response(probabilities().reshape(2, 4, 3)),
        response(probabilities() * np.nan),
        response(probabilities() * np.inf),
        response(probabilities() * 2),
        response(probabilities() * np.float32([3, 3, -1, -1])),
        NodeResponse(ID, ("a", "b"), "abc", b"garbage"),
        NodeResponse.from_message(Message("", b"", ID)),
    ],
)
def test_bad_responses(bad):
    with pytest.raises(ValueError, match="Expected"):
        bad.predictions(("a", "b"), "abc", (3, 4))


def test_description_round_trip():
    message = DESCRIPTION.to_message("topic", 90)
    assert (message.retain, message.expires) == (True, 90)
    assert NodeDescription.from_message(message) == DESCRIPTION


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b" " * 300_000,
        *(
            DESCRIPTION.to_message("", 1).payload.replace(old, new)
            for old, new in [
                (b'["a", "b"]', b"[]"),
                (b'["a", "b"]', b'["a", "a"]'),
                (b'["a", "b"]', b'["a", 2]'),
                (b": 8", b": 0"),
                (b": 8", b": 8.5"),
                (b": 8", b": 1e9"),
                (b'"format": 1', b'"format": 2'),
            ]
        ),
    ],
)
def test_bad_descriptions(payload):
    with pytest.raises(ValueError, match="Expected"):
        NodeDescription.from_message(Message("", payload))


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a b", "-a", "x" * 65, None, 1])
def test_names(name):
    assert check_name("pi-1.local") == "pi-1.local"
    with pytest.raises(ValueError, match="letters"):
        check_name(name)


def test_topics():
    assert Topics("site/one").answers("g", "n") == "site/one/gateways/g/answers/n"
    for prefix in ("", "a//b", "/a", "a/#"):
        with pytest.raises(ValueError, match="prefix"):
            Topics(prefix)


def test_lru_cache_limits_number_and_size():
    recent = LRUCache(count=3, size=100)
    for i in range(10):
        recent.put(i, str(i), 10)
    assert [recent.get(i) for i in range(6, 10)] == [None, "7", "8", "9"]
    recent.put(9, "new", 90)
    assert (len(recent), recent.get(8), recent.get(9)) == (2, "8", "new")
    recent.put("large", "", 101)
    assert len(recent) == 0


def request(number, payload=b""):
    return NodeRequest(number.to_bytes(16), "g", ("a",), 1.0, payload)


def test_inbox_takes_each_request_once():
    inbox, answer = Inbox(2), Message("answer")
    assert inbox.put(request(1), now=5.0) is Verdict.NEW
    assert inbox.put(request(1), now=5.1) is Verdict.AGAIN
    assert inbox.put(request(2), now=5.2) is Verdict.NEW
    assert inbox.put(request(3), now=5.3) is Verdict.BUSY
    assert inbox.get(0) == (request(1), 6.0)
    assert inbox.put(request(3), now=5.4) is Verdict.BUSY
    inbox.done(request(1), answer)
    assert inbox.put(request(1), now=5.5) is answer
    assert inbox.put(request(3), now=5.6) is Verdict.NEW
    assert [inbox.get(0)[0], inbox.get(0)[0]] == [request(2), request(3)]
    inbox.done(request(2), None)
    assert inbox.put(request(2), now=5.7) is Verdict.NEW


def test_inbox_limits_bytes():
    inbox = Inbox(100)
    half = bytes(MAX_PAYLOAD // 2)
    verdicts = [inbox.put(request(i, half), 0) for i in range(3)]
    assert verdicts == [Verdict.NEW, Verdict.NEW, Verdict.BUSY]
    inbox.wake()
    assert [inbox.get(0) is None for _ in range(3)] == [False, False, True]


def test_broker():
    assert Broker().port == 1883
    assert Broker(ca_file="ca.pem").port == 8883
    assert Broker.parse("pi.local:99", tls=True) == Broker("pi.local", 99, tls=True)
    assert Broker.parse("[::1]:99") == Broker("::1", 99)
    assert Broker.parse("::1") == Broker("::1")
    shown = Broker(username="me", password="secret")
    assert "secret" not in f"{shown} {shown!r}"


@pytest.mark.parametrize(
    "values",
    [
        {"host": ""},
        {"port": 0},
        {"port": 70000},
        {"password": "secret"},
        {"key_file": "key"},
        {"keepalive": 0},
    ],
)
def test_bad_brokers(values):
    with pytest.raises(ValueError, match="Expected") as caught:
        Broker(**values)
    assert "secret" not in str(caught.value)


def test_bad_addresses_and_files(tmp_path):
    for address in ("host:", "host:x", "", "[::1]:x"):
        with pytest.raises(ValueError, match="Expected"):
            Broker.parse(address)
    with pytest.raises(ValueError, match=r"absent\.pem"):
        Broker(ca_file=tmp_path / "absent.pem").ssl_context()
