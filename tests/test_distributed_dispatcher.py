"""The gateway's decisions, without a broker, threads or a clock."""

import itertools
import math
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
from keras_micronets.edge.distributed.request import NoQuorumError, Request, read_answer
from keras_micronets.edge.distributed.scheduler import PAUSE

MEMBERS = ("a", "b", "c")
DIGEST, CLASSES, SAMPLES = "abc", 4, 2


def dispatcher(quorum=2, max_pending=100):
    return Dispatcher(
        MEMBERS,
        digest=DIGEST,
        classes=CLASSES,
        quorum=quorum,
        max_pending=max_pending,
    )


def describe(members, capacity=2, session="1", digest=DIGEST):
    return NodeDescription(digest, tuple(members), capacity, session)


def ready(nodes, **options):
    it = dispatcher(**options)
    for name, members in nodes.items():
        it.announce(name, describe(members), 1e6, 0.0)
    return it


def submit(it, now=0.0, seconds=1.0):
    question = Request(b"x", SAMPLES, now, now + seconds)
    it.submit(question, now)
    return question


def sends(it):
    taken, it._assigner.sends = it._assigner.sends, []
    return taken


def asked(it):
    return {(ask.node, "".join(ask.members)) for ask in sends(it)}


def probabilities(ask):
    value = 1 + np.array([[[ord(m) % 7, 1, 2, 3]] * SAMPLES for m in ask.members])
    return (value / value.sum(-1, keepdims=True)).astype("float32")


def good(ask):
    return NodeResponse(ask.id, ask.members, DIGEST, pack(probabilities(ask)))


def answer(it, ask, now=0.0, reply=None):
    it.reply(ask.node, reply or good(ask), now)


def garbage(ask):
    return NodeResponse(ask.id, ask.members, DIGEST, b"garbage")


def busy(ask):
    return NodeResponse(ask.id, ask.members, DIGEST, error="busy")


def test_one_answer_of_all():
    it = ready({"one": "ab", "two": "c"})
    question = submit(it)
    first, second = sends(it)
    assert {(a.node, a.members) for a in (first, second)} == {
        ("one", ("a", "b")),
        ("two", ("c",)),
    }
    answer(it, first)
    assert not it.over
    answer(it, second)
    assert it.over == [question]
    assert {m: node for m, (node, _) in question.answers.items()} == {
        "a": "one",
        "b": "one",
        "c": "two",
    }
    np.testing.assert_array_equal(question.answers["b"][1], probabilities(first)[1])
    answer(it, second)
    it.tick(5.0)
    assert it.over == [question]
    assert it.statistics["duplicate"] == 1


def test_members_without_a_node_are_not_waited_for():
    it = ready({"one": "ab"})
    question = submit(it)
    answer(it, *sends(it))
    assert it.over == [question]


def test_quorum_is_waited_for():
    it = ready({"one": "a"})
    question = submit(it)
    answer(it, *sends(it))
    assert not it.over
    it.announce("two", describe("b"), 1e6, 0.5)
    answer(it, *sends(it), 0.6)
    assert it.over == [question]


def test_deadline():
    it = ready({"one": "ab", "two": "c"})
    question = submit(it, seconds=2.0)
    answer(it, sends(it)[0])
    for now in (1.0, 1.5, 1.75, 1.999):
        it.tick(now)
        assert not it.over
    assert it.due() == 2.0
    it.tick(2.0)
    assert it.over == [question]
    assert [*question.answers] == ["a", "b"]


def test_replicas_take_turns_and_the_idle_one_is_asked():
    it = ready({"one": "a", "two": "a", "three": "bc"})
    nodes = []
    for _ in range(4):
        submit(it)
        asks = sends(it)
        nodes += [ask.node for ask in asks if ask.members == ("a",)]
        for ask in asks:
            answer(it, ask)
    assert sorted(nodes) == ["one", "one", "two", "two"]
    submit(it)
    busy_one = next(ask.node for ask in sends(it) if ask.members == ("a",))
    submit(it)
    assert busy_one not in {ask.node for ask in sends(it) if ask.members == ("a",)}


def test_back_pressure_and_free_slots():
    it = ready({"one": "abc"})
    questions = [submit(it) for _ in range(4)]
    first, second = sends(it)
    answer(it, first)
    (third,) = sends(it)
    assert third.question is questions[2]
    it.tick(1.0)
    assert it.over == questions
    assert it.roster.get("one").asks == {}
    sends(it)
    submit(it, 1.0)
    assert len(sends(it)) == 1
    answer(it, second, 1.1)
    assert it.statistics["late"] == 1


def test_a_stopped_node_leaves_other_members_alone():
    it = ready({"stopped": "a", "two": "b", "three": "c"})
    for now in np.arange(0, 5, 0.05):
        question = submit(it, now)
        for ask in sends(it):
            if ask.node != "stopped":
                answer(it, ask, now)
        it.tick(now)
        assert {*question.answers} == {"b", "c"}
    it.tick(10)
    assert it.statistics["requests"] == len(it.over) == 100


def test_too_many():
    it = ready({"one": "abc"}, max_pending=3)
    for _ in range(3):
        submit(it)
    with pytest.raises(OverloadedError, match="at most 3 requests"):
        submit(it)
    answer(it, sends(it)[0])
    submit(it)


@pytest.mark.parametrize(
    "bad", [garbage, lambda ask: NodeResponse(ask.id, (), "", error="x")]
)
def test_another_replica_after_a_bad_answer(bad):
    it = ready({"one": "abc", "two": "abc"})
    submit(it)
    asks = sends(it)
    spoilt = asks[0]
    answer(it, spoilt, 0.1, bad(spoilt))
    (again,) = sends(it)
    assert (again.members, again.node != spoilt.node) == (spoilt.members, True)


def test_suspects_are_asked_last():
    it = ready({"one": "abc", "two": "abc"})
    submit(it)
    spoilt = sends(it)[0]
    answer(it, spoilt, 0.1, garbage(spoilt))
    answer(it, *sends(it), 0.1)
    submit(it, 0.2)
    assert spoilt.node not in {ask.node for ask in sends(it)}


def test_the_same_one_again_after_a_bad_answer_where_there_is_no_other():
    it = ready({"one": "abc"})
    submit(it)
    (ask,) = sends(it)
    answer(it, ask, 0.0, garbage(ask))
    assert not sends(it)
    it.tick(0.5)
    (again,) = sends(it)
    assert again.id != ask.id
    answer(it, again, 0.6)
    assert len(it.over) == 1


def test_busy_nodes_are_left_alone_for_a_moment():
    it = ready({"one": "abc"})
    submit(it)
    submit(it)
    (first, _) = sends(it)
    answer(it, first, 0.0, busy(first))
    assert not sends(it)
    it.tick(PAUSE)
    (again,) = sends(it)
    assert again.question is first.question


def test_another_replica_after_half_of_the_time():
    it = ready({"one": "abc", "two": "abc"})
    question = submit(it)
    first, second = sends(it)
    answer(it, first)
    it.tick(0.49)
    assert not sends(it)
    it.tick(0.5)
    (hedge,) = sends(it)
    assert (hedge.members, hedge.node) == (second.members, first.node)
    answer(it, second, 0.6)
    assert it.over == [question]
    answer(it, hedge, 0.7)
    assert it.over == [question]
    assert it.statistics["late"] == 1


def test_the_same_message_again_after_half_of_the_time():
    it = ready({"one": "abc"})
    submit(it)
    (ask,) = sends(it)
    it.tick(0.5)
    it.tick(0.75)
    it.tick(0.9)
    assert sends(it) == [ask, ask]


def test_a_lost_node_is_replaced():
    it = ready({"one": "abc", "two": "abc"})
    submit(it)
    lost = sends(it)[0]
    it.lose(lost.node, 0.1)
    (again,) = sends(it)
    assert (again.members, again.node != lost.node) == (lost.members, True)
    answer(it, lost, 0.2)
    assert it.statistics["late"] == 1


def test_a_lost_node_without_a_replica_ends_the_wait():
    it = ready({"one": "ab", "two": "c"})
    question = submit(it)
    answer(it, sends(it)[0])
    it.lose("two", 0.1)
    assert it.over == [question]


def test_a_node_that_was_away_is_sent_it_again():
    it = ready({"one": "abc"})
    submit(it)
    (ask,) = sends(it)
    it.announce("one", describe("abc"), 1e6, 0.1)
    assert not sends(it)
    it.announce("one", describe("abc", session="2"), 1e6, 0.2)
    assert sends(it) == [ask]
    it.resume(0.3)
    assert sends(it) == [ask]
    it.announce("one", describe("ab", session="3"), 1e6, 0.4)
    assert asked(it) == {("one", "ab")}


def test_nodes_of_other_bundles_are_not_asked():
    it = ready({"one": "abc"})
    it.announce("two", describe("abc", digest="other"), 1e6, 0.0)
    it.announce("one", describe("abc", digest="other"), 1e6, 0.0)
    submit(it)
    assert (sends(it), it.statistics["other_bundle"]) == ([], 2)


def test_descriptions_expire():
    it = dispatcher()
    it.announce("one", describe("abc"), 30, 0.0)
    it.announce("one", describe("abc"), 30, 20.0)
    it.tick(49.0)
    assert it.roster.members == {*"abc"}
    assert it.due() == 50.0
    it.tick(50.0)
    assert it.roster.members == set()


def test_answers_of_others_are_dropped():
    it = ready({"one": "abc", "two": "abc"})
    submit(it)
    ask = sends(it)[0]
    other = {"one": "two", "two": "one"}[ask.node]
    it.reply(other, good(ask), 0.1)
    it.reply("stranger", good(ask), 0.1)
    it.reply("one", NodeResponse(bytes(16), ask.members, DIGEST, b""), 0.1)
    assert not ask.question.answers
    assert (it.statistics["unasked"], it.statistics["late"]) == (2, 1)


NODES = ("one", "two", "three")
EVENTS = st.one_of(
    st.tuples(st.just("submit"), st.floats(0.05, 2.0)),
    st.tuples(
        st.just("announce"),
        st.sampled_from(NODES),
        st.sampled_from(["a", "ab", "bc", "abc"]),
        st.integers(1, 3),
        st.sampled_from("12"),
    ),
    st.tuples(st.just("lose"), st.sampled_from(NODES)),
    st.tuples(
        st.just("reply"),
        st.integers(0, 30),
        st.sampled_from([good, good, good, garbage, busy]),
        st.sampled_from([None, "one"]),
    ),
    st.tuples(st.just("resume")),
    st.tuples(st.just("pass"), st.floats(0.0, 0.6)),
)


class World:
    """Play events to a dispatcher, and see that its promises hold."""

    def __init__(self):
        self.it = dispatcher(max_pending=20)
        self.now, self.questions, self.sent = 0.0, [], []

    def play(self, event, *arguments):
        getattr(self, event)(*arguments)
        self.sent += sends(self.it)
        self.check()

    def submit(self, seconds):
        question = Request(b"x", SAMPLES, self.now, self.now + seconds)
        try:
            self.it.submit(question, self.now)
        except OverloadedError:
            assert len(self.questions) - len(self.it.over) == 20
        else:
            self.questions.append(question)

    def announce(self, name, members, capacity, session):
        self.it.announce(name, describe(members, capacity, session), 5, self.now)

    def lose(self, name):
        self.it.lose(name, self.now)

    def reply(self, place, make, name):
        if self.sent:
            ask = self.sent[-1 - place % len(self.sent)]
            self.it.reply(name or ask.node, make(ask), self.now)

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
        over = self.it.over
        assert len({*map(id, over)}) == len(over)
        for question in self.questions:
            assert question.over == (question in over)
            assert question.over or self.now < question.deadline
            for member, (node, value) in question.answers.items():
                assert any(
                    (ask.question, ask.node) == (question, node)
                    and member in ask.members
                    for ask in self.sent
                )
                assert value.shape == (SAMPLES, CLASSES)
        for node in self.it.roster:
            # Fewer slots than before may be taken already.
            assert len(node.asks) <= 3


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=60))
def test_every_request_is_over_once_and_by_its_deadline(events):
    world = World()
    for event in events:
        world.play(*event)
    world.play("pass", 10.0)
    assert {*world.it.over} == {*world.questions}
    assert all(node.asks == {} for node in world.it.roster)
    assigner = world.it._assigner
    left = [world.it._open, assigner.asks, assigner._timers]
    assert not any([*left, *assigner._waiting.values()])
    assert world.it.due() == math.inf


def manifest(rule, weights=None):
    members = [SimpleNamespace(name=name) for name in MEMBERS]
    return SimpleNamespace(members=members, combination=Combination(rule, weights))


@pytest.mark.parametrize("rule", ["mean", "logit", "vote", "weights"])
def test_any_subset_is_combined_as_the_bundle_says(rule):
    weights = (0.5, 0.3, 0.2) if rule == "weights" else None
    random = np.random.default_rng(0)
    all_of_them = random.dirichlet(np.ones(CLASSES), (3, SAMPLES)).astype("float32")
    for places in itertools.chain.from_iterable(
        itertools.combinations(range(3), n) for n in (1, 2, 3)
    ):
        question = Request(b"", SAMPLES, 0.0, 1.0)
        for i in reversed(places):
            question.answers[MEMBERS[i]] = ("node", all_of_them[i])
        made = read_answer(question, manifest(rule, weights), 1, 0.1)
        some = weights and np.array([weights[i] for i in places])
        expected = combine(
            all_of_them[[*places]],
            rule=rule,
            weights=None if weights is None else some / some.sum(),
        )
        np.testing.assert_array_equal(made.probabilities, expected)
        np.testing.assert_allclose(made.probabilities.sum(-1), 1, rtol=1e-5)
        assert {*made.members} | {*made.missing} == {*MEMBERS}
        assert made.members == tuple(MEMBERS[i] for i in places)


def test_members_without_weight_are_no_answer():
    question = Request(b"", 1, 0.0, 1.0)
    question.answers["a"] = ("node", np.full((1, 2), 0.5, "float32"))
    with pytest.raises(ValueError, match="weights"):
        read_answer(question, manifest("weights", (0, 0.5, 0.5)), 1, 0.1)


def test_fewer_than_the_quorum_are_no_answer():
    question = Request(b"", 1, 0.0, 1.5)
    question.answers["b"] = ("node", np.full((1, 2), 0.5, "float32"))
    question.tried["c"].add("pi-1")
    with pytest.raises(NoQuorumError, match=r"2 members within 1.5 s.*pi-1") as caught:
        read_answer(question, manifest("mean"), 2, 0.1)
    assert (caught.value.members, caught.value.missing) == (("b",), ("a", "c"))
