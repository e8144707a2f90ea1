"""Another policy while the pipe runs: in force from its frame on, for sessions, sidecars and what the file holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpy6a import limits
from mpy6a.entries import Admin, SessionKey, encode_policy
from mpy6a.errors import Code
from mpy6a.framing import FrameType
from mpy6a.messages import Ack, Goodbye, Hello, Push, Stop
from mpy6a.model import AdminVerb, Op, SessionId, SessionState, Verb
from mpy6a.orphans import Orphans
from mpy6a.pipe import Pipe
from mpy6a.policy import KindPolicy, Policy, policy_of
from mpy6a.policy import Orphans as Choice
from mpy6a.state import State
from mpy6a.why import why
from tests.fakes.core import KIND, World
from tests.unit.test_due_filed import Filed

A, S, T = b"A" * 16, b"S" * 16, b"T" * 16
OTHER = KindPolicy(2, "user-erase", ("users",), delay_ms=100)


def reload(world: World, policy: Policy) -> list[int]:
    """Have it logged; how often `done` was called, in the list."""
    done: list[int] = []
    world.pipe.reload(policy, encode_policy(policy), world.now_ms, lambda applied: done.append(1))
    return done


def without(*kinds: KindPolicy, orphans: Choice = "hold") -> Policy:
    return Policy({kind.id: kind for kind in kinds}, orphans=orphans)


def stored(world: World, kind: int = 1, after_ms: int = 1) -> SessionId:
    id = world.new(A, b"record", kind)
    world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=after_ms)])
    return id


def test_a_policy_is_in_force_from_its_frame_on() -> None:
    """Not before it is committed; the same after a replay, which reads it from the frame."""
    world = World()
    before, after = world.state.policy, policy_of([replace(KIND, delay_ms=7_000), OTHER])
    done = reload(world, after)
    assert world.state.policy == before
    assert done == []
    world.work()
    assert (world.state.policy, done) == (after, [1])
    assert World(policy=after, log=world.log.restarted()).state.policy == after


def test_a_batch_behind_the_policy_is_judged_by_it() -> None:
    """In the same group: a New of a kind that leaves with it is no orphan's."""
    world = World(policy=policy_of([KIND, OTHER]))
    reload(world, without(KIND))
    ack = world.batch(A, [Op(Verb.NEW, 1, argument=2)])
    assert isinstance(ack, Ack)
    assert [result.code for result in ack.results] == [Code.UNKNOWN_KIND]
    assert world.state.sessions.live() == 0


def test_a_kind_that_comes_back_goes_on() -> None:
    """Held meanwhile as ORPHAN_KIND, pushed when it is routed again: no timer would say so."""
    world = World(policy=policy_of([KIND, OTHER]))
    id = stored(world)
    reload(world, without(OTHER))
    world.pass_time(10)
    world.sidecar(S)
    world.pass_time(1_000)
    session = world.session(id)
    assert session is not None
    assert why(world.pipe, world.pusher, session, world.log_ms)[0] == "ORPHAN_KIND"
    assert not [message for _, message in world.pushed if isinstance(message, Push)]
    reload(world, policy_of([KIND, OTHER]))
    world.work()
    world.pusher.reroute({"users": "tcp://127.0.0.1:1"})
    assert world.pusher.deadline(world.now_ms) == world.now_ms
    world.work()
    assert session.state == SessionState.REPEATING


def run(world: World, orphans: Orphans, turns: int = 50) -> None:
    for _ in range(turns):
        orphans.turn(world.now_ms)
        world.work()


def test_orphans_are_parked_where_the_routes_say_so() -> None:
    """Those that wait; one that is written goes on, and is parked once it waits. What was paused stays."""
    world = World(policy=policy_of([KIND, OTHER]))
    orphans = Orphans(world.pipe)
    waiting, far, paused = stored(world), stored(world, after_ms=1 << 30), stored(world)
    word = Admin(AdminVerb.PAUSE, "ada", sessions=(SessionKey(paused.term, paused.index),))
    world.pipe.say(word, world.now_ms, lambda applied: None)
    world.work()
    open_, routed = world.new(A, b"record"), stored(world, kind=2)
    reload(world, without(OTHER, orphans="hold"))
    run(world, orphans)
    assert orphans.deadline(world.now_ms) is None
    assert world.state.sessions.counts[1 << 3 | SessionState.STORED] == 3
    reload(world, without(OTHER, orphans="park"))
    world.work()
    assert orphans.stored() == [1]
    run(world, orphans)
    for id in (waiting, far):
        session = world.session(id)
        assert session is not None
        assert session.state == SessionState.PARKED
        assert session.delivery is not None
        assert session.delivery.park_reason == "kind 1 is in no route any more"
    for id, state in ((paused, SessionState.STORED), (open_, SessionState.OPEN), (routed, SessionState.STORED)):
        session = world.session(id)
        assert session is not None
        assert session.state == state
    world.batch(A, [Op(Verb.STORE, open_.index, open_.term, 1, 1)])
    run(world, orphans, 5)
    wait_ms = (orphans.deadline(world.now_ms) or 0) - world.now_ms
    assert 0 < wait_ms <= limits.ORPHANS_LOOK_MS
    world.pass_time(wait_ms)
    run(world, orphans)
    session = world.session(open_)
    assert session is not None
    assert session.state == SessionState.PARKED


def test_orphans_in_the_checkpoints_file_are_parked_in_slices() -> None:
    """They come into memory a few at a time, however many and however far off they are."""
    world = Filed()
    count = 3 * limits.ORPHANS_FILED + 5
    world.store(count, [10_000_000] * count)
    world.checkpoint()
    orphans = Orphans(world.pipe)
    reload(world, without(OTHER, orphans="park"))
    world.work()
    sessions, most = world.state.sessions, 0
    while sessions.counts[1 << 3 | SessionState.STORED]:
        before = sessions.filed.count
        orphans.turn(world.now_ms)
        most = max(most, before - sessions.filed.count)
        world.work()
        assert (orphans.deadline(world.now_ms) or 0) <= world.now_ms or not sessions.filed.count
    assert most == limits.ORPHANS_FILED
    assert sessions.counts[1 << 3 | SessionState.PARKED] == count


def test_nothing_is_parked_before_the_opening_is_committed() -> None:
    """A start with the kind back in the routes: what the last term's policy said no longer counts."""
    world = World(policy=policy_of([KIND, OTHER]))
    stored(world)
    reload(world, without(OTHER, orphans="park"))
    world.work()
    state = State(1)
    for frame in world.log.restarted().replay():
        state.apply(frame)
    pipe = Pipe(state, b"Q" * 16)
    pipe.open(policy_of([KIND, OTHER]), 5_000, world.log_ms)
    Orphans(pipe).turn(5_000)
    assert [frame.type for frame in pipe.group()] == [FrameType.OPENING, FrameType.POLICY]


def test_a_full_disk_and_a_checkpoint_that_is_behind_stop_parking() -> None:
    """It goes on by itself."""
    world = World(policy=policy_of([KIND, OTHER]))
    stored(world)
    reload(world, without(OTHER, orphans="park"))
    world.work()
    orphans = Orphans(world.pipe)
    world.pipe.behind = True
    run(world, orphans, 3)
    assert orphans.deadline(world.now_ms) is None
    assert orphans.stored() == [1]
    world.pipe.behind = False
    run(world, orphans)
    assert orphans.stored() == []


def test_a_sidecar_that_is_let_go_is_told_to_stop() -> None:
    """Its sessions are released as a lost sidecar's, uncharged, and go to another; then its dial is gone."""
    world = World(policy=policy_of([replace(KIND, sidecars=("users", "search"))]), sidecars=("users", "search"))
    world.sidecar(S)
    id = stored(world)
    world.pass_time(10)
    session = world.session(id)
    assert session is not None
    assert session.state == SessionState.REPEATING
    assert world.pusher.reroute({"search": "tcp://127.0.0.1:1"}) == {"users": S}
    assert not world.pusher.let_go(S)
    world.work()
    assert session.delivery is not None
    assert (session.state, session.delivery.charges) == (SessionState.STORED, 0)
    assert [message.sessions[0].index for _, message in world.pushed if isinstance(message, Stop)] == [id.index]
    assert world.pusher.let_go(S)
    assert not world.pusher.knows(S)
    assert [facts["name"] for facts in world.pusher.status()] == ["search"]
    world.sidecar(T, "search")
    world.pass_time(10)
    assert (session.state, session.epoch) == (SessionState.REPEATING, 3)


@pytest.mark.parametrize("same", [True, False])
def test_a_sidecar_at_another_address_is_dialed_anew(same: bool) -> None:
    """The same process keeps what it runs; of another one, what the first held is released."""
    world = World()
    world.sidecar(S)
    id = stored(world)
    world.pass_time(10)
    session = world.session(id)
    assert session is not None
    assert world.pusher.reroute({"users": "tcp://127.0.0.1:2"}) == {}
    assert not world.pusher.knows(S)
    world.work()
    assert session.state == SessionState.REPEATING
    if same:
        world.sidecar(S, held=[session])
        world.pass_time(10)
        assert (session.state, session.epoch) == (SessionState.REPEATING, 2)
    else:
        world.sidecar(T)
        world.pass_time(10)
        assert session.delivery is not None
        assert (session.epoch, session.delivery.target) == (3, T)


def test_whoever_said_hello_is_known_until_it_goes() -> None:
    """So that it can be told of new routes."""
    world = World()
    world.tell(A, Hello())
    world.tell(S, Hello())
    assert world.pipe.greeted == {A: "door", S: "door"}
    world.tell(A, Goodbye())
    assert world.pipe.greeted == {S: "door"}
    for _ in range(2 * limits.LEASE_MS // 1_000):
        world.pass_time(1_000)
    assert world.pipe.greeted == {}
