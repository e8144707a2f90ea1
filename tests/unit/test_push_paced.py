"""Breakers, rates and limits over the whole core: what is handed out, what is charged, and what the log says of it."""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise

from mpy6a.framing import FrameType
from mpy6a.messages import Push
from mpy6a.model import Op, SessionId, SessionState, Verb
from mpy6a.policy import KindPolicy, policy_of
from mpy6a.state import State
from mpy6a.why import why
from tests.fakes.core import World

A, S = b"A" * 16, b"S" * 16
HOUR_MS = 3_600_000


class Service:
    """A world with one kind, one sidecar, and what that one holds: (id, epoch), oldest first."""

    def __init__(self, kind: KindPolicy, credit: int = 64) -> None:
        self.world = World(policy=policy_of([kind]))
        self.held: deque[tuple[SessionId, int]] = deque()
        self.handed = 0
        self._credit, self._taken, self._seen = credit, 0, 0
        self._heard_ms = self.world.now_ms
        self._dial = self.world.sidecar(S, sessions=credit)

    def stored(self, count: int, after_ms: int = 0) -> list[SessionId]:
        found = []
        for _ in range(count):
            session = self.world.new(A)
            self.world.batch(A, [Op(Verb.STORE, session.index, session.term, 1, 1, argument=after_ms)])
            found.append(session)
        return found

    def take(self) -> None:
        """Take in what was pushed; grant as much again, so that credit bounds what is held and nothing else."""
        world = self.world
        for _, message in world.pushed[self._seen :]:
            if isinstance(message, Push):
                for part in message.sessions:
                    self.held.append((SessionId(1, part.term, part.index), part.epoch))
                    self.handed += 1
        self._seen = len(world.pushed)
        ended = self.handed - len(self.held)
        if ended > self._taken or world.now_ms - self._heard_ms > 2_000:
            self._taken, self._heard_ms = ended, world.now_ms
            world.heartbeat(S)
            world.heartbeat(A)
            world.accept(S, self._dial, self.handed, sessions=self._credit + ended)

    def fail(self) -> SessionId:
        """The oldest run fails."""
        session, epoch = self.held.popleft()
        ack = self.world.batch(S, [Op(Verb.FAIL, session.index, session.term, epoch, record=b"B is away")])
        assert not ack.results
        self.take()
        return session

    def finish(self) -> SessionId:
        """The handler of the oldest run deletes its session."""
        session, epoch = self.held.popleft()
        ack = self.world.batch(b"H" * 16, [Op(Verb.DELETE, session.index, session.term, epoch, 1)])
        assert not ack.results
        self.take()
        return session

    def pass_time(self, ms: int) -> None:
        self.world.pass_time(ms)
        self.take()

    def charges(self, session: SessionId) -> int:
        found = self.world.session(session)
        assert found is not None
        return found.delivery.charges if found.delivery else 0

    def why(self, session: SessionId) -> tuple[str, str]:
        found = self.world.session(session)
        assert found is not None
        return why(self.world.pipe, self.world.pusher, found, self.world.log_ms)


def test_what_fails_while_the_breaker_is_open_is_not_charged_and_the_log_says_so() -> None:
    """Semantics "Policy is in the log": a replay charges as the pipe did, with no breaker of its own."""
    service = Service(KindPolicy(1, "k", ("users",), delay_ms=0, breaker=3, backoff_base_ms=200, backoff_cap_ms=200))
    world = service.world
    service.stored(5)
    service.pass_time(10)
    assert len(service.held) == 5
    charged = [service.fail() for _ in range(3)]
    assert world.pipe.pacing.open_kinds == {1}
    spared = [service.fail() for _ in range(2)]
    assert [service.charges(one) for one in charged + spared] == [1, 1, 1, 0, 0]
    again, levels = State(1), []
    for frame in world.log.restarted().replay():
        forgiven = frame.type == FrameType.BATCH and frame.verdicts == bytes.fromhex("0000000000000100")
        assert frame.level == (2 if forgiven else 1), "an older release reads every frame that means nothing new"
        levels.append(frame.level)
        again.apply(frame)
    assert levels.count(2) == 2
    assert again.dump() == world.state.dump()


def test_a_run_that_falls_silent_while_the_breaker_is_open_is_not_charged() -> None:
    """Its handler hangs on the same outage."""
    service = Service(KindPolicy(1, "k", ("users",), delay_ms=0, breaker=2, silence_ms=5_000))
    service.stored(3)
    service.pass_time(10)
    service.fail()
    service.fail()
    [silent] = [session for session, _ in service.held]
    for _ in range(6):
        service.pass_time(1_000)
    assert service.charges(silent) == 0
    found = service.world.session(silent)
    assert found is not None
    assert found.delivery is not None
    assert found.delivery.attempts[0].message == "silence limit"


def test_an_open_breaker_tries_one_and_goes_on_when_it_succeeds() -> None:
    """`why` tells it, and when the next one is tried."""
    service = Service(KindPolicy(1, "k", ("users",), delay_ms=0, breaker=3, backoff_base_ms=200, backoff_cap_ms=200))
    service.stored(20)
    service.pass_time(10)
    for _ in range(20):
        service.fail()
    service.pass_time(190)
    assert not service.held
    waiting = service.stored(1)[0]
    service.pass_time(5)
    assert service.why(waiting) == (
        "BREAKER_OPEN", "3 sessions failed in a row; one is tried in 0.0 s; last: B is away"
    )  # fmt: skip
    service.pass_time(10)
    assert len(service.held) == 1
    assert service.why(waiting)[1].startswith("3 sessions failed in a row; one is tried now")
    service.finish()
    seen: list[int] = []
    while service.held:
        seen.append(len(service.held))
        for _ in range(len(service.held)):
            service.finish()
    assert (seen[0], max(seen)) == (1, max(seen[-3:]))
    assert all(later <= earlier + 1 for earlier, later in pairwise(seen)), "one more a round"
    assert sum(seen) == 20


def test_a_rate_holds_whatever_is_due() -> None:
    """Ten a second and two at once, of a hundred that are due; `why` names the limit."""
    service = Service(KindPolicy(1, "k", ("users",), delay_ms=0, rate=10, burst=2))
    service.stored(100)
    service.pass_time(10)
    waiting = next(session for session in service.world.state.sessions.all() if session.state == SessionState.STORED)
    assert service.why(SessionId(1, waiting.term, waiting.index)) == ("LIMIT", "rate: 10/s, burst 2")
    begun_ms, begun = service.world.now_ms, service.handed
    while service.handed < 50:
        deadline = service.world.pusher.deadline(service.world.now_ms)
        assert deadline is not None
        service.pass_time(max(1, deadline - service.world.now_ms))
    took_ms = service.world.now_ms - begun_ms
    assert (50 - begun) * 100 - 100 <= took_ms <= (50 - begun) * 100 + 100


def test_a_total_bounds_what_runs_in_all_sidecars() -> None:
    """However much credit they grant."""
    service = Service(KindPolicy(1, "k", ("users",), delay_ms=0, concurrency_total=5))
    service.stored(30)
    service.pass_time(10)
    while service.handed < 30:
        assert len(service.held) == 5
        service.finish()


def test_an_hour_without_b_parks_nobody_and_its_return_is_gentle() -> None:
    """300 sessions need B, which is away for an hour: few tries, nothing parked, and all finish when it is back."""
    kind = KindPolicy(
        1, "k", ("users",), delay_ms=0, concurrency=32, concurrency_total=32, rate=100, burst=20, breaker=10,
        barren_limit=12, charge_limit=20,
    )  # fmt: skip
    service, chance = Service(kind, credit=32), random.Random(7)
    world = service.world
    service.stored(300)
    end_ms, most, tries = world.now_ms + HOUR_MS, 0, 0
    while world.now_ms < end_ms:
        while service.held:
            most = max(most, len(service.held))
            service.fail()
            tries += 1
        due = [world.pipe.deadline(world.now_ms), world.pusher.deadline(world.now_ms) or end_ms]
        service.pass_time(max(1, min(due) - world.now_ms))
    assert most <= 32
    assert tries < 300, "an open breaker tries twice a minute"
    assert world.state.sessions.live() == 300
    assert all(session.state != SessionState.PARKED for session in world.state.sessions.all())

    back_ms, times = world.now_ms, []
    while world.state.sessions.live():
        assert world.now_ms < back_ms + 60_000, "all finish within a minute of B's return"
        assert len(service.held) <= 32
        before = service.handed
        for _ in range(len(service.held)):
            if chance.random() < 0.5:
                service.finish()
            else:
                service.held.rotate(-1)  # it takes a little longer
        times += [world.now_ms] * (service.handed - before)
        before = service.handed
        service.pass_time(10)
        times += [world.now_ms] * (service.handed - before)
    for start in range(len(times) - 20):
        stretch_ms = times[-1] - times[start]
        assert len(times) - start <= 20 + stretch_ms * 100 / 1_000 + 1, "100 a second, 20 at once"
