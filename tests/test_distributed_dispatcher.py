"""The gateway's decisions, without a broker, threads or a clock."""

import itertools
import math
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_micronets.edge.bundle.manifest import Combination
from keras_micronets.edge.combine import combine
from keras_micronets.edge.distributed.dispatcher import Dispatcher, OverloadedError
from keras_micronets.edge.distributed.message import pack
from keras_micronets.edge.distributed.protocol import NodeDescription, NodeResponse
from keras_micronets.edge.distributed.registry import PROBE_SECONDS
from keras_micronets.edge.distributed.request import (
    Batch,
    NoQuorumError,
    Request,
    read_result,
)
from keras_micronets.edge.distributed.scheduler import PAUSE

MEMBERS = ("a", "b", "c")
DIGEST, CLASSES, SAMPLES = "abc", 4, 2


def dispatcher(quorum=2, max_pending=100):
    return Dispatcher(
        MEMBERS,
        digest=DIGEST,
        output_shape=(CLASSES,),
        quorum=quorum,
        max_pending=max_pending,
    )


def describe(members, capacity=2, session="1", digest=DIGEST):
    return NodeDescription(digest, tuple(members), capacity, session)


def ready(nodes, **options):
    it = dispatcher(**options)
    for name, members in nodes.items():
        it.add_node(name, describe(members), 1e6, 0.0)
    return it


def submit(it, now=0.0, seconds=1.0):
    request = Request(b"x", SAMPLES, now, now + seconds)
    it.submit(request, now)
    return request


def sends(it):
    taken, it._scheduler.outgoing = it._scheduler.outgoing, []
    return taken


def asked(it):
    return {(assignment.node, "".join(assignment.members)) for assignment in sends(it)}


def probabilities(assignment):
    value = 1 + np.array(
        [[[ord(m) % 7, 1, 2, 3]] * SAMPLES for m in assignment.members]
    )
    return (value / value.sum(-1, keepdims=True)).astype("float32")


def good(assignment):
    return NodeResponse(
        assignment.id, assignment.members, DIGEST, pack(probabilities(assignment))
    )


def answer(it, assignment, now=0.0, response=None):
    it.receive(assignment.node, response or good(assignment), now)


def garbage(assignment):
    return NodeResponse(assignment.id, assignment.members, DIGEST, b"garbage")


def busy(assignment):
    return NodeResponse(assignment.id, assignment.members, DIGEST, error="busy")


def test_one_result_of_all_members():
    it = ready({"one": "ab", "two": "c"})
    request = submit(it)
    first, second = sends(it)
    assert {(a.node, a.members) for a in (first, second)} == {
        ("one", ("a", "b")),
        ("two", ("c",)),
    }
    answer(it, first)
    assert not it.finished
    answer(it, second)
    assert it.finished == [request]
    assert {m: node for m, (node, _) in request.results.items()} == {
        "a": "one",
        "b": "one",
        "c": "two",
    }
    np.testing.assert_array_equal(request.results["b"][1], probabilities(first)[1])
    answer(it, second)
    it.tick(5.0)
    assert it.finished == [request]
    assert it.statistics["duplicate"] == 1


def test_members_without_a_node_are_not_waited_for():
    it = ready({"one": "ab"})
    request = submit(it)
    answer(it, *sends(it))
    assert it.finished == [request]


def test_quorum_is_waited_for():
    it = ready({"one": "a"})
    request = submit(it)
    answer(it, *sends(it))
    assert not it.finished
    it.add_node("two", describe("b"), 1e6, 0.5)
    answer(it, *sends(it), 0.6)
    assert it.finished == [request]


def test_deadline():
    it = ready({"one": "ab", "two": "c"})
    request = submit(it, seconds=2.0)
    answer(it, sends(it)[0])
    for now in (1.0, 1.5, 1.75, 1.999):
        it.tick(now)
        assert not it.finished
    assert it.due() == 2.0
    it.tick(2.0)
    assert it.finished == [request]
    assert [*request.results] == ["a", "b"]


def test_replicas_take_turns_and_the_idle_one_is_chosen():
    it = ready({"one": "a", "two": "a", "three": "bc"})
    nodes = []
    for _ in range(4):
        submit(it)
        assignments = sends(it)
        nodes += [
            assignment.node
            for assignment in assignments
            if assignment.members == ("a",)
        ]
        for assignment in assignments:
            answer(it, assignment)
    assert sorted(nodes) == ["one", "one", "two", "two"]
    submit(it)
    busy_one = next(
        assignment.node for assignment in sends(it) if assignment.members == ("a",)
    )
    submit(it)
    assert busy_one not in {
        assignment.node for assignment in sends(it) if assignment.members == ("a",)
    }


def test_back_pressure_and_free_slots():
    it = ready({"one": "abc"})
    requests = [submit(it) for _ in range(4)]
    first, second = sends(it)
    answer(it, first)
    (third,) = sends(it)
    assert third.request is requests[2]
    it.tick(1.0)
    assert it.finished == requests
    assert it.registry.get("one").assignments == {}
    sends(it)
    submit(it, 1.0)
    assert len(sends(it)) == 1
    answer(it, second, 1.1)
    assert it.statistics["late"] == 1


def test_a_stopped_node_leaves_other_members_alone():
    it = ready({"stopped": "a", "two": "b", "three": "c"})
    for now in np.arange(0, 5, 0.05):
        request = submit(it, now)
        for assignment in sends(it):
            if assignment.node != "stopped":
                answer(it, assignment, now)
        it.tick(now)
        assert {*request.results} == {"b", "c"}
    it.tick(10)
    assert it.statistics["requests"] == len(it.finished) == 100


def test_too_many():
    it = ready({"one": "abc"}, max_pending=3)
    for _ in range(3):
        submit(it)
    with pytest.raises(OverloadedError, match="at most 3 requests"):
        submit(it)
    answer(it, sends(it)[0])
    submit(it)


@pytest.mark.parametrize(
    "bad", [garbage, lambda assignment: NodeResponse(assignment.id, (), "", error="x")]
)
def test_another_replica_after_an_invalid_response(bad):
    it = ready({"one": "abc", "two": "abc"})
    submit(it)
    assignments = sends(it)
    invalid = assignments[0]
    answer(it, invalid, 0.1, bad(invalid))
    (again,) = sends(it)
    assert (again.members, again.node != invalid.node) == (invalid.members, True)


def test_suspects_are_chosen_last():
    it = ready({"one": "abc", "two": "abc"})
    submit(it)
    invalid = sends(it)[0]
    answer(it, invalid, 0.1, garbage(invalid))
    answer(it, *sends(it), 0.1)
    submit(it, 0.2)
    assert invalid.node not in {assignment.node for assignment in sends(it)}


def test_the_same_node_again_after_an_invalid_response_without_a_replica():
    it = ready({"one": "abc"})
    submit(it)
    (assignment,) = sends(it)
    answer(it, assignment, 0.0, garbage(assignment))
    assert not sends(it)
    it.tick(0.5)
    (again,) = sends(it)
    assert again.id != assignment.id
    answer(it, again, 0.6)
    assert len(it.finished) == 1


def test_busy_nodes_are_paused():
    it = ready({"one": "abc"})
    submit(it)
    submit(it)
    (first, _) = sends(it)
    answer(it, first, 0.0, busy(first))
    assert not sends(it)
    it.tick(PAUSE)
    (again,) = sends(it)
    assert again.request is first.request


def test_another_replica_after_half_of_the_time():
    it = ready({"one": "abc", "two": "abc"})
    request = submit(it)
    first, second = sends(it)
    answer(it, first)
    it.tick(0.49)
    assert not sends(it)
    it.tick(0.5)
    (hedge,) = sends(it)
    assert (hedge.members, hedge.node) == (second.members, first.node)
    answer(it, second, 0.6)
    assert it.finished == [request]
    answer(it, hedge, 0.7)
    assert it.finished == [request]
    assert it.statistics["late"] == 1


def answered_at(it, name, seconds, count=1):
    """Answer some requests to a node after so many seconds."""
    for _ in range(count):
        submit(it, seconds=100)
        for assignment in sends(it):
            answer(it, assignment, seconds if assignment.node == name else 0.0)


def test_the_faster_replica_is_chosen_until_it_is_busy():
    it = ready({"one": "abc", "two": "abc"})
    answered_at(it, "one", 0.04, 4)
    assert it.registry.get("one").latency == pytest.approx(0.04)
    chosen = []
    for _ in range(3):
        submit(it, seconds=100)
        chosen.append({a.node for a in sends(it)})
    assert chosen == [{"two"}, {"two"}, {"one"}]  # the capacity is 2


def test_a_node_is_as_slow_as_its_oldest_unanswered_assignment():
    it = ready({"one": "abc", "two": "abc"})
    submit(it, seconds=100)
    (open_one, other) = sends(it)
    answer(it, other, 0.02)
    submit(it, 1.0, seconds=100)
    assert {a.node for a in sends(it)} == {other.node}
    # A new connection does not make it better.
    it.add_node(open_one.node, describe("abc", session="2"), 1e6, 1.1)
    sends(it)
    submit(it, 1.2, seconds=100)
    assert {a.node for a in sends(it)} == {other.node}


def test_a_missed_deadline_counts_as_its_latency():
    it = ready({"one": "a", "two": "bc"})
    submit(it, seconds=3.0)
    assert {a.node for a in sends(it)} == {"one", "two"}
    it.tick(1.5)
    it.tick(3.0)
    assert it.registry.get("one").latency == 3.0


def test_a_demoted_node_is_probed_with_a_copy():
    it = ready({"one": "abc", "two": "abc"})
    answered_at(it, "one", 0.2, 2)
    submit(it, PROBE_SECONDS - 0.1)
    (only,) = sends(it)
    answer(it, only, PROBE_SECONDS - 0.1)
    submit(it, PROBE_SECONDS)
    first, probe = sends(it)
    assert (first.node, probe.node) == ("two", "one")
    answer(it, first, PROBE_SECONDS)
    assert len(it.finished) == 4
    answer(it, probe, PROBE_SECONDS)
    # 0.2 s, twice, then zero with a weight of 0.3.
    assert it.registry.get("one").latency == pytest.approx(0.14)
    assert it.statistics["probes"] == 1


def test_another_replica_after_the_95th_percentile():
    it = ready({"one": "abc", "two": "abc"})
    for i in range(1, 21):
        submit(it, seconds=100)
        for assignment in sends(it):
            answer(it, assignment, i / 100)
    submit(it, 1.0, seconds=100)
    first, second = sends(it)
    answer(it, first, 1.0)
    it.tick(1.199)
    assert not sends(it)
    it.tick(1.2)
    (hedge,) = sends(it)
    assert (hedge.members, hedge.node) == (second.members, first.node)
    assert it.statistics["hedges"] == 1


def test_hedges_are_limited():
    it = dispatcher()
    for name in ("one", "two"):
        it.add_node(name, describe("abc", capacity=100), 1e6, 0.0)
    answered_at(it, "one", 0.0, 20)
    for _ in range(20):
        submit(it, 1.0, seconds=100)
    sends(it)
    it.tick(1.5)
    assert len(sends(it)) == it.statistics["hedges"] == 10


def test_the_same_message_again_after_half_of_the_time():
    it = ready({"one": "abc"})
    submit(it)
    (assignment,) = sends(it)
    it.tick(0.5)
    it.tick(0.75)
    it.tick(0.9)
    assert sends(it) == [assignment, assignment]


def test_a_lost_node_is_replaced():
    it = ready({"one": "abc", "two": "abc"})
    submit(it)
    lost = sends(it)[0]
    it.remove_node(lost.node, 0.1)
    (again,) = sends(it)
    assert (again.members, again.node != lost.node) == (lost.members, True)
    answer(it, lost, 0.2)
    assert it.statistics["late"] == 1


def test_a_lost_node_without_a_replica_ends_the_wait():
    it = ready({"one": "ab", "two": "c"})
    request = submit(it)
    answer(it, sends(it)[0])
    it.remove_node("two", 0.1)
    assert it.finished == [request]


def test_a_reconnected_node_gets_its_assignments_again():
    it = ready({"one": "abc"})
    submit(it)
    (assignment,) = sends(it)
    it.add_node("one", describe("abc"), 1e6, 0.1)
    assert not sends(it)
    it.add_node("one", describe("abc", session="2"), 1e6, 0.2)
    assert sends(it) == [assignment]
    it.resume(0.3)
    assert sends(it) == [assignment]
    it.add_node("one", describe("ab", session="3"), 1e6, 0.4)
    assert asked(it) == {("one", "ab")}


def test_nodes_with_other_bundles_are_ignored():
    it = ready({"one": "abc"})
    it.add_node("two", describe("abc", digest="other"), 1e6, 0.0)
    it.add_node("one", describe("abc", digest="other"), 1e6, 0.0)
    submit(it)
    assert (sends(it), it.statistics["other_bundle"]) == ([], 2)


def test_descriptions_expire():
    it = dispatcher()
    it.add_node("one", describe("abc"), 30, 0.0)
    it.add_node("one", describe("abc"), 30, 20.0)
    it.tick(49.0)
    assert it.registry.members == {*"abc"}
    assert it.due() == 50.0
    it.tick(50.0)
    assert it.registry.members == set()


def test_responses_of_other_nodes_are_dropped():
    it = ready({"one": "abc", "two": "abc"})
    submit(it)
    assignment = sends(it)[0]
    other = {"one": "two", "two": "one"}[assignment.node]
    it.receive(other, good(assignment), 0.1)
    it.receive("stranger", good(assignment), 0.1)
    it.receive("one", NodeResponse(bytes(16), assignment.members, DIGEST, b""), 0.1)
    assert not assignment.request.results
    assert (it.statistics["unexpected"], it.statistics["late"]) == (2, 1)


NODES = ("one", "two", "three")
EVENTS = st.one_of(
    st.tuples(st.just("submit"), st.floats(0.05, 2.0)),
    st.tuples(
        st.just("add_node"),
        st.sampled_from(NODES),
        st.sampled_from(["a", "ab", "bc", "abc"]),
        st.integers(1, 3),
        st.sampled_from("12"),
    ),
    st.tuples(st.just("remove_node"), st.sampled_from(NODES)),
    st.tuples(
        st.just("receive"),
        st.integers(0, 30),
        st.sampled_from([good, good, good, garbage, busy]),
        st.sampled_from([None, "one"]),
    ),
    st.tuples(st.just("resume")),
    st.tuples(st.just("pass"), st.floats(0.0, 0.6)),
)


class World:
    """Pass events to a dispatcher, and check its guarantees."""

    def __init__(self):
        self.it = dispatcher(max_pending=20)
        self.now, self.requests, self.sent = 0.0, [], []

    def play(self, event, *arguments):
        getattr(self, event)(*arguments)
        self.sent += sends(self.it)
        self.check()

    def submit(self, seconds):
        request = Request(b"x", SAMPLES, self.now, self.now + seconds)
        try:
            self.it.submit(request, self.now)
        except OverloadedError:
            assert len(self.requests) - len(self.it.finished) == 20
        else:
            self.requests.append(request)

    def add_node(self, name, members, capacity, session):
        self.it.add_node(name, describe(members, capacity, session), 5, self.now)

    def remove_node(self, name):
        self.it.remove_node(name, self.now)

    def receive(self, index, make, name):
        if self.sent:
            assignment = self.sent[-1 - index % len(self.sent)]
            self.it.receive(name or assignment.node, make(assignment), self.now)

    def resume(self):
        self.it.resume(self.now)

    def __getattr__(self, name):
        assert name == "pass"
        return self.wait

    def wait(self, seconds):
        end = self.now + seconds
        while self.it.due() <= end:
            self.now = max(self.now, self.it.due())
            self.it.tick(self.now)
        self.now = end

    def check(self):
        over = self.it.finished
        assert len({*map(id, over)}) == len(over)
        for request in self.requests:
            assert request.is_finished == (request in over)
            assert request.is_finished or self.now < request.deadline
            for member, (node, value) in request.results.items():
                assert any(
                    (assignment.request, assignment.node) == (request, node)
                    and member in assignment.members
                    for assignment in self.sent
                )
                assert value.shape == (SAMPLES, CLASSES)
        for node in self.it.registry:
            # A new description may have fewer slots than are in use.
            assert len(node.assignments) <= 3


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=60))
def test_every_request_finishes_once_and_by_its_deadline(events):
    world = World()
    for event in events:
        world.play(*event)
    world.play("pass", 10.0)
    assert {*world.it.finished} == {*world.requests}
    assert all(node.assignments == {} for node in world.it.registry)
    scheduler = world.it._scheduler
    left = [world.it._open, scheduler.assignments, scheduler._timers]
    assert not any([*left, *scheduler._waiting.values()])
    assert world.it.due() == math.inf


def manifest(rule, weights=None):
    members = [SimpleNamespace(name=name) for name in MEMBERS]
    return SimpleNamespace(members=members, combination=Combination(rule, weights))


@pytest.mark.parametrize("rule", ["mean", "logit", "vote", "weights"])
def test_any_subset_is_combined_as_the_bundle_defines(rule):
    weights = (0.5, 0.3, 0.2) if rule == "weights" else None
    random = np.random.default_rng(0)
    all_of_them = random.dirichlet(np.ones(CLASSES), (3, SAMPLES)).astype("float32")
    for indices in itertools.chain.from_iterable(
        itertools.combinations(range(3), n) for n in (1, 2, 3)
    ):
        request = Request(b"", SAMPLES, 0.0, 1.0)
        for i in reversed(indices):
            request.results[MEMBERS[i]] = ("node", all_of_them[i])
        made = read_result(request, manifest(rule, weights), 1, 0.1)
        some = weights and np.array([weights[i] for i in indices])
        expected = combine(
            all_of_them[[*indices]],
            rule=rule,
            weights=None if weights is None else some / some.sum(),
        )
        np.testing.assert_array_equal(made.probabilities, expected)
        np.testing.assert_allclose(made.probabilities.sum(-1), 1, rtol=1e-5)
        assert {*made.members} | {*made.missing} == {*MEMBERS}
        assert made.members == tuple(MEMBERS[i] for i in indices)


def test_the_parts_of_a_batch_are_joined():
    random = np.random.default_rng(0)
    values = {m: random.dirichlet(np.ones(CLASSES), 5) for m in MEMBERS}
    batch = Batch(Future())
    batch.parts = [Request(b"", n, 0.0, 1.5, batch) for n in (3, 2)]
    first, last = batch.parts
    for member in MEMBERS:
        first.results[member] = ("one", values[member][:3])
    for member in ("c", "a"):
        last.results[member] = ("two", values[member][3:])
    last.tried["b"].add("two")
    joined = batch.join()
    assert (joined.samples, joined.tried["b"]) == (5, {"two"})
    result = read_result(joined, manifest("mean"), 2, 0.1)
    assert (result.members, result.nodes) == (("a", "c"), {"a": "one", "c": "one"})
    expected = (values["a"] + values["c"]) / 2
    np.testing.assert_allclose(result.probabilities, expected, rtol=1e-5)
    first.is_finished = True
    assert not batch.is_finished
    last.error = "too large"
    with pytest.raises(ConnectionError, match="too large"):
        read_result(batch.join(), manifest("mean"), 1, 0.1)


def test_members_without_weight_are_no_result():
    request = Request(b"", 1, 0.0, 1.0)
    request.results["a"] = ("node", np.full((1, 2), 0.5, "float32"))
    with pytest.raises(ValueError, match="weights"):
        read_result(request, manifest("weights", (0, 0.5, 0.5)), 1, 0.1)


def test_fewer_than_the_quorum_are_no_result():
    request = Request(b"", 1, 0.0, 1.5)
    request.results["b"] = ("node", np.full((1, 2), 0.5, "float32"))
    request.tried["c"].add("pi-1")
    request.refusals["pi-1"] = "too large"
    expected = r"2 members within 1.5 s.*Errors of nodes: {'pi-1': 'too large'}"
    with pytest.raises(NoQuorumError, match=expected) as caught:
        read_result(request, manifest("mean"), 2, 0.1)
    assert (caught.value.members, caught.value.missing) == (("b",), ("a", "c"))
