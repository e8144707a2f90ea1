"""Sessions of one kind and order key repeat one at a time, in the order of their index."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpy6a.model import Extra, Op, SessionId, Verb
from mpy6a.orders import FLOORS_MAX, Orders
from mpy6a.policy import KindPolicy, policy_of
from mpy6a.session import PARKED, REPEATING
from mpy6a.sessions import Applied
from tests.fakes.core import World
from tests.unit.test_admin import Desk
from tests.unit.test_push import pushes

A, S, H = b"A" * 16, b"S" * 16, b"H" * 16
KIND = KindPolicy(1, "k", ("users",), delay_ms=0, backoff_base_ms=1, backoff_cap_ms=1, charge_limit=2)


class Ordered:
    """A world with one kind and a sidecar; sessions are made with an order key."""

    def __init__(self, kind: KindPolicy = KIND) -> None:
        self.world = World(policy=policy_of([kind]))
        self.desk = Desk(self.world)
        self.dial = self.world.sidecar(S, sessions=1_000)

    def new(self, order_key: str = "tenant", *, after_ms: int | None = 0) -> SessionId:
        """One that is stored, or OPEN with `after_ms` None."""
        world = self.world
        world.requests += 1
        new = Op(Verb.NEW, world.requests, argument=1)
        ack = world.batch(A, [new], extras=[Extra(0, order_key=order_key)])
        id = SessionId(1, ack.term, ack.first_index)
        if after_ms is not None:
            world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=after_ms)])
        return id

    def running(self) -> list[int]:
        return [one.index for one in self.world.state.sessions.all() if one.state == REPEATING]

    def finish(self, id: SessionId) -> None:
        found = self.world.session(id)
        assert found is not None
        ack = self.world.batch(H, [Op(Verb.DELETE, id.index, id.term, found.epoch, 1)])
        assert not ack.results

    def fail(self, id: SessionId) -> None:
        found = self.world.session(id)
        assert found is not None
        self.world.batch(S, [Op(Verb.FAIL, id.index, id.term, found.epoch, record=b"no")])

    def why(self, id: SessionId) -> tuple[str, str]:
        shown = self.desk.ask("sessions.show", id=str(id))
        return shown["why"], shown["detail"]


def test_one_runs_and_those_behind_it_wait_for_their_turn() -> None:
    """In the order of their index, whoever is due first; others of the kind go on meanwhile."""
    orders = Ordered()
    first = orders.new(after_ms=3_000)
    second, third = orders.new(), orders.new()
    other, free = orders.new("other"), orders.new("")
    orders.world.pass_time(10)
    assert orders.running() == [other.index, free.index]
    assert orders.why(second) == orders.why(third) == ("BEHIND", str(first))
    orders.world.pass_time(2_000)
    orders.world.heartbeat(S)
    orders.world.pass_time(1_500)
    assert orders.running() == [first.index, other.index, free.index]
    orders.finish(first)
    orders.world.pass_time(10)
    assert orders.running() == [second.index, other.index, free.index]
    assert orders.why(third) == ("BEHIND", str(second))
    orders.finish(second)
    orders.world.pass_time(10)
    assert orders.running() == [third.index, other.index, free.index]
    assert [part.order_key for part in pushes(orders.world)] == ["other", "", "tenant", "tenant", "tenant"]


def test_one_that_is_still_written_holds_back_those_after_it() -> None:
    """A live predecessor, in whatever state."""
    orders = Ordered()
    opened = orders.new(after_ms=None)
    waits = orders.new()
    orders.world.pass_time(10)
    assert orders.running() == []
    orders.world.batch(A, [Op(Verb.DELETE, opened.index, opened.term, 1, 1)])
    orders.world.pass_time(10)
    assert orders.running() == [waits.index]


def test_one_that_failed_stays_first() -> None:
    """Between its repeats nobody overtakes it."""
    orders = Ordered()
    first, second = orders.new(), orders.new()
    orders.world.pass_time(10)
    orders.fail(first)
    assert orders.why(second) == ("BEHIND", str(first))
    orders.world.pass_time(10)
    assert orders.running() == [first.index]


@pytest.mark.parametrize("skips", [False, True])
def test_a_parked_one_holds_others_back_unless_the_kind_skips_it(skips: bool) -> None:
    """`order_skips: parked`; kicked it is first again."""
    orders = Ordered(replace(KIND, order_skips_parked=skips))
    first, second, third = orders.new(), orders.new(), orders.new()
    for _ in range(2):
        orders.world.pass_time(10)
        orders.fail(first)
    found = orders.world.session(first)
    assert found is not None
    assert found.state == PARKED
    orders.world.pass_time(10)
    assert orders.running() == ([second.index] if skips else [])
    assert orders.why(third) == ("BEHIND", str(second if skips else first))
    orders.desk.ask("sessions.kick", id=str(first), who="ada")
    orders.world.pass_time(10)
    assert first.index in orders.running()


def test_a_restart_finds_the_order_as_it_was() -> None:
    """What was finished before it counts no more, and what waited still does."""
    orders = Ordered()
    ids = [orders.new() for _ in range(4)]
    orders.world.pass_time(10)
    orders.finish(ids[0])
    world = World(policy=policy_of([KIND]), log=orders.world.log.restarted())
    world.sidecar(S, sessions=8)
    world.pass_time(10)
    running = [one.index for one in world.state.sessions.all() if one.state == REPEATING]
    assert running == [ids[1].index]


def test_floors_are_bounded() -> None:
    """A floor that is forgotten is only a longer look at the file."""
    orders = Orders()
    for number in range(FLOORS_MAX + 10):
        orders.raise_floor((1, str(number)), 5)
    assert orders.floor((1, str(FLOORS_MAX + 9))) == 5
    assert orders.floor((1, "0")) == 0
    assert len(orders._floors) <= FLOORS_MAX


def test_an_order_is_kept_only_while_somebody_is_in_it() -> None:
    """Also where they came back from the file in another order."""
    orders = Orders()
    for index in (5, 9, 7, 3):
        orders.add((1, "o"), index)
    assert list(orders.live((1, "o"))) == [3, 5, 7, 9]
    orders.drop((1, "o"), 5)
    assert not orders.moved
    for index in (3, 9, 7):
        orders.remove((1, "o"), index)
    assert list(orders.live((1, "o"))) == []
    assert orders.moved == {(1, "o"): None}
    assert not orders._live


def test_the_next_one_is_ready_also_while_a_tick_is_not_swept_to_its_end() -> None:
    """The sweep stands before the tick in which it was due: it must not be forgotten."""
    orders = Ordered()
    world = orders.world
    first, second = orders.new(), orders.new()
    world.pass_time(10)
    assert orders.running() == [first.index]
    world.pipe.due._log_ms -= 1_000  # as while more is due in a tick than one turn takes
    found = world.session(first)
    assert found is not None
    world.state.sessions.delete(found, world.log_ms, Applied())
    world.pipe.due.reorder()
    assert world.pipe.due.woken
    assert world.pusher.deadline(world.now_ms) == world.now_ms
    world.pass_time(10)
    assert orders.running() == [second.index]


def test_a_sweep_that_nobody_goes_on_with_does_not_keep_the_loop_awake() -> None:
    """Its kind is paused, or has no sidecar any more."""
    orders = Ordered()
    orders.world.pipe.due.is_sweeping = True
    orders.world.pusher.turn(orders.world.now_ms)
    assert orders.world.pusher.deadline(orders.world.now_ms) is None


def test_kinds_that_nobody_serves_take_no_share() -> None:
    """A hundred kinds without a sidecar: what can be handed out goes as fast as alone."""
    kinds = [KIND, *(KindPolicy(number, f"k{number}", ("nobody",), delay_ms=0) for number in range(2, 102))]
    world = World(policy=policy_of(kinds), sidecars=("users", "nobody"))
    world.sidecar(S, sessions=1_000)
    for kind in [1] * 100 + list(range(2, 102)):
        id = world.new(A, kind=kind)
        world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=1_000)])
    groups = world.log.stats.frames
    world.pass_time(1_100)
    world.heartbeat(S)
    assert sum(one.state == REPEATING for one in world.state.sessions.all()) == 100
    assert world.log.stats.frames - groups <= 2, "one frame of dispatches, not one for each session"
