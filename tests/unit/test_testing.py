"""The embedded pipe: users test their clients and handlers against the real core, with a clock that they move."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

import mpy6a
from mpy6a import testing
from mpy6a.testing import Kind

User = dict[str, str]


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs an async test in a loop of its own."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))  # type: ignore[arg-type]  # an async function's Awaitable is a coroutine

    return run


class Down(Exception):
    """A service that does not answer."""


@dataclass
class Services:
    """The seeds' services A (users) and B (index). `fails` are the steps at which they are down."""

    users: dict[str, User] = field(default_factory=dict)
    indexed: set[str] = field(default_factory=set)
    fails: set[str] = field(default_factory=set)
    finds: int = 0

    def create(self, user: User) -> User:
        self._up("create")
        made = user | {"id": f"u{len(self.users) + 1}"}
        self.users[made["id"]] = made
        self._up("create, answer lost")
        return made

    def find(self, by: User) -> User | None:
        self.finds += 1
        self._up("find")
        return next((user for user in self.users.values() if by.items() <= user.items()), None)

    def index(self, user: User) -> None:
        self._up("index")
        self.indexed.add(user["id"])

    def _up(self, step: str) -> None:
        if step in self.fails:
            raise Down(step)


async def create_user(pipe: mpy6a.AsyncPipe, services: Services, user: User, die: Callable[[str], None]) -> None:
    """The seeds' creating client. `die(step)` may end it between any two steps."""
    async with pipe.new("user-create") as session:  # 1
        die("new")
        await session.append(json=user)  # 2
        die("written")
        made = services.create(user)  # 3, 4
        die("created")
        await session.append(json={"id": made["id"]})  # 5
        die("id written")
        services.index(made)  # 6, 7
        die("indexed")
        await session.delete()  # 8


def finisher(services: Services) -> Callable[[mpy6a.RepeatData], Awaitable[None]]:
    """The seeds' handler of unfinished user creation."""

    @mpy6a.handler("user-create")
    async def finish_user_create(repeat: mpy6a.RepeatData) -> None:
        session = repeat.session
        facts = {k: v for record in repeat.records for k, v in record.json().items()}  # 1
        if not facts:
            return await session.delete()
        by = {"id": facts["id"]} if "id" in facts else {"nickname": facts["nickname"]}
        user = services.find(by)  # 2
        if user is None:
            return await session.delete()  # 3
        services.index(user)  # 4
        await session.delete()  # 5

    return finish_user_create


ADA: User = {"nickname": "ada", "name": "Ada Lovelace"}
STEPS = ("new", "written", "created", "id written", "indexed")


@pytest.mark.parametrize("step", STEPS)
@in_loop
async def test_wherever_the_client_dies_its_handler_leaves_no_user_without_index(step: str) -> None:
    """The seeds' example: killed between any two steps, both services agree in the end and no session is left."""
    services = Services()
    async with testing.pipe(finisher(services)) as pipe:

        def die(at: str) -> None:
            if at == step:
                pipe.kill_client()
                raise Down(at)

        with pytest.raises(Down):
            await create_user(pipe, services, ADA, die)
        [session] = pipe.sessions()
        assert (session.state, session.kind, session.repeats) == ("STORED", "user-create", 0)
        assert len(session.records) == {"new": 0, "written": 1, "created": 1}.get(step, 2)
        await pipe.advance(0.9)
        assert services.finds == 0
        await pipe.advance(0.2)  # the kind's delay is a second
        assert pipe.sessions() == []
        assert set(services.users) == services.indexed == ({"u1"} if STEPS.index(step) >= 2 else set())


@in_loop
async def test_failing_handlers_repeat_by_back_off_as_time_goes_by() -> None:
    """A handler that raises is charged and runs again, later and later, until it can finish."""
    services = Services(fails={"index"})
    async with testing.pipe(finisher(services)) as pipe:
        with pytest.raises(Down):
            await create_user(pipe, services, ADA, lambda step: None)
        await pipe.advance(timedelta(minutes=5))
        [session] = pipe.sessions()
        assert services.finds == session.repeats >= 5
        assert session.state == "STORED"
        assert session.epoch == session.repeats + 1
        assert session.why.startswith("TIMER")
        assert session.due is not None
        services.fails.clear()
        await pipe.advance(session.due + 0.01)
        assert pipe.sessions() == []
        assert services.indexed == {"u1"}
        assert pipe.now == pytest.approx(300.01 + session.due, abs=0.002)


@in_loop
async def test_runs_are_the_same_each_time() -> None:
    """Nothing hangs on chance: ids, back-offs and outcomes of two runs are equal."""

    async def run() -> list[testing.LiveSession]:
        services = Services(fails={"index"})
        async with testing.pipe(finisher(services)) as pipe:
            for nickname in ("ada", "grace", "joan"):
                with pytest.raises(Down):
                    await create_user(pipe, services, {"nickname": nickname}, lambda step: None)
            await pipe.advance(100)
            return pipe.sessions()

    first = await run()
    assert len(first) == 3
    assert first == await run()


@in_loop
async def test_a_restarted_pipe_has_everything_and_answers_resends_by_the_first_verdict() -> None:
    """What was on its way when the pipe died is taken once; what was stored is still due."""
    async with testing.pipe(kinds={"order": Kind()}) as pipe:
        session = await pipe.new("order", b"one")
        stored = await pipe.new("order")
        await stored.store(after=60)
        late, new = session.append(b"two"), pipe.new("order", b"of a lost answer")
        await asyncio.sleep(0)  # sent, and not taken yet
        pipe.restart()
        assert not late.done()
        await late
        again = await new
        assert [one.records for one in pipe.sessions()] == [(b"one", b"two"), (), (b"of a lost answer",)]
        await session.append(b"three")
        await session.delete()
        await again.delete()
        [left] = pipe.sessions()
        assert (left.id, left.due) == (stored.id, 60)


@in_loop
async def test_handlers_that_run_while_the_pipe_restarts_go_on() -> None:
    """A restart takes no session from a handler: its epoch, and its writes, stay good."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @mpy6a.handler("order")
    async def finish(repeat: mpy6a.RepeatData) -> None:
        begun.set()
        await go_on.wait()
        await repeat.session.delete()

    async with testing.pipe(finish, patience=0) as pipe:
        await (await pipe.new("order")).store(after=0)
        await pipe.settle()
        assert begun.is_set()
        pipe.restart()
        [session] = pipe.sessions()
        assert (session.state, session.why) == ("REPEATING", "REPEATING_AT embedded")
        go_on.set()
        await pipe.settle()
        assert pipe.sessions() == []


@in_loop
async def test_who_lost_its_session_is_fenced() -> None:
    """A writer that was idle too long finds its session in a handler's hands, with a higher fence."""
    fences: list[int] = []

    @mpy6a.handler("order")
    async def finish(repeat: mpy6a.RepeatData) -> None:
        fences.append(int(repeat.session.fence["Mpy6a-Fence"]))
        await repeat.session.store(after=3600)

    async with testing.pipe(finish, default=Kind(idle=10, delay=1)) as pipe:
        session = await pipe.new("order", b"begun")
        await pipe.advance(9)
        await session.touch()
        await pipe.advance(9)
        assert fences == []
        await pipe.advance(3)
        assert fences == [fences[0]]
        assert fences[0] > int(session.fence["Mpy6a-Fence"])
        with pytest.raises(mpy6a.Fenced):
            await session.append(b"too late")
        assert pipe.sessions()[0].records == (b"begun",)


@in_loop
async def test_a_hanging_handler_loses_its_session_to_the_silence_limit() -> None:
    """Time goes on beside a handler that hangs; its session is taken from it and handed out again."""
    hung: list[str] = []

    @mpy6a.handler("order")
    async def finish(repeat: mpy6a.RepeatData) -> None:
        if repeat.repeats > 1:
            return await repeat.session.delete()
        try:
            await asyncio.Event().wait()
        finally:
            hung.append(repeat.session.id)

    async with testing.pipe(finish, default=Kind(silence=20), patience=0) as pipe:
        session = await pipe.new("order")
        await session.store(after=1)
        await pipe.advance(20)
        assert pipe.sessions()[0].state == "REPEATING"
        await pipe.advance(30)
        assert (pipe.sessions(), hung) == ([], [session.id])


@in_loop
async def test_parked_sessions_wait_for_an_operator() -> None:
    """park() sets a session aside with its reason; a kick has it repeated."""
    answers = iter(["no such user", ""])

    @mpy6a.handler("order")
    async def finish(repeat: mpy6a.RepeatData) -> None:
        reason = next(answers)
        if reason:
            await repeat.session.park(reason)
        else:
            await repeat.session.delete()

    async with testing.pipe(finish) as pipe:
        session = await pipe.new("order")
        await session.store(after=0)
        await pipe.advance(timedelta(days=1))
        [parked] = pipe.sessions()
        assert (parked.state, parked.why, parked.due) == ("PARKED", "PARKED no such user", None)
        pipe.kick(session.id)
        await pipe.settle()
        assert pipe.sessions() == []


@in_loop
async def test_released_sessions_come_again_uncharged() -> None:
    """release(after=...) gives the session back; no number of releases parks it."""
    runs: list[float] = []

    @mpy6a.handler("order")
    async def finish(repeat: mpy6a.RepeatData) -> None:
        runs.append(pipe.now)
        await repeat.session.release(after=10)

    async with testing.pipe(finish, default=Kind(charge_limit=2, barren_limit=2)) as pipe:
        await (await pipe.new("order")).store(after=0)
        await pipe.advance(55)
        assert runs == pytest.approx([0, 10, 20, 30, 40, 50], abs=0.1)
        assert pipe.sessions()[0].state == "STORED"


@in_loop
async def test_limits_of_a_kind_park_what_never_succeeds() -> None:
    """charge_limit as in routes.yaml; a handler that returns undecided has failed."""

    @mpy6a.handler("order")
    async def finish(repeat: mpy6a.RepeatData) -> None:
        pass

    async with testing.pipe(finish, kinds={"order": Kind(charge_limit=3, backoff=(1, 1))}) as pipe:
        await (await pipe.new("order")).store(after=0)
        await pipe.advance(10)
        [session] = pipe.sessions()
        assert (session.state, session.repeats) == ("PARKED", 3)


@in_loop
async def test_cancel_hands_the_session_to_its_handler_to_be_undone() -> None:
    """An operator's cancel fences the writer, and the handler is told."""
    cancels: list[bool] = []

    @mpy6a.handler("order")
    async def finish(repeat: mpy6a.RepeatData) -> None:
        cancels.append(repeat.cancel)
        await repeat.session.delete()

    async with testing.pipe(finish) as pipe:
        session = await pipe.new("order", b"begun")
        pipe.cancel(session.id, "customer called")
        await pipe.settle()
        assert cancels == [True]
        with pytest.raises(mpy6a.Refused):
            await session.append(b"too late")


@in_loop
async def test_plain_handlers_run_in_threads() -> None:
    """A plain function gets a blocking session, as with a real sidecar."""
    threads: list[str] = []

    @mpy6a.handler("order")
    def finish(repeat: mpy6a.RepeatData[mpy6a.Session]) -> None:
        threads.append(threading.current_thread().name)
        repeat.session.append(b"seen")
        repeat.session.delete()

    async with testing.pipe(finish) as pipe:
        await (await pipe.new("order")).store(after=5)
        await pipe.advance(5.1)
        assert pipe.sessions() == []
        assert threads[0].startswith("mpy6a-handler")


@in_loop
async def test_a_kind_without_handler_keeps_its_sessions() -> None:
    """Nothing is lost where nobody is there, and `why` says so."""
    async with testing.pipe(kinds={"order": Kind(number=7)}) as pipe:
        async with pipe.new(7, b"begun") as session:
            await session.store(after=1)
        await pipe.advance(60)
        [stored] = pipe.sessions()
        assert (stored.kind, stored.state, stored.why) == ("order", "STORED", "NO_CREDIT embedded took all it wanted")
        with pytest.raises(mpy6a.UnknownKind):
            await pipe.new("invoice")


@in_loop
async def test_two_clients_of_one_pipe() -> None:
    """The death of one client is nothing to another; one that closes has its sessions stored at once."""
    async with testing.pipe(kinds={"order": Kind()}) as pipe:
        other = pipe.client()
        mine, theirs = await pipe.new("order"), await other.new("order")
        pipe.kill_client()
        await theirs.append(b"still here")
        with pytest.raises(mpy6a.SessionClosed):
            await mine.append(b"from beyond")
        assert [one.state for one in pipe.sessions()] == ["STORED", "OPEN"]
        await (await pipe.new("order")).delete()  # the next life of the test's own client
        await other.aclose()
        assert [one.state for one in pipe.sessions()] == ["STORED", "STORED"]


@in_loop
async def test_time_that_goes_by_costs_idle_clients_nothing() -> None:
    """After a day without a word a client that lives still owns its session, and opens new ones."""
    async with testing.pipe(kinds={"order": Kind(idle=timedelta(days=2))}) as pipe:
        session = await pipe.new("order")
        await pipe.advance(timedelta(days=1))
        await session.append(b"next day")
        await (await pipe.new("order")).delete()
        assert [one.records for one in pipe.sessions()] == [(b"next day",)]


@in_loop
async def test_mistakes_of_the_test_are_said() -> None:
    """Not entered, entered twice, two handlers of one kind, an unmarked function: each is told what to do."""
    pipe = testing.pipe(kinds={"order": Kind()})
    with pytest.raises(mpy6a.BadRequest, match="enter the embedded pipe"):
        pipe.new("order")
    async with pipe:
        with pytest.raises(mpy6a.BadRequest, match="entered once"):
            await pipe.__aenter__()
    handler = finisher(Services())
    with pytest.raises(mpy6a.BadRequest, match="two handlers"):
        testing.pipe(handler, handler)
    with pytest.raises(mpy6a.BadRequest, match="not marked"):
        testing.pipe(lambda repeat: None)
    with pytest.raises(mpy6a.BadRequest, match="both have the number 1"):
        testing.pipe(kinds={"a": Kind(number=1), "b": Kind(number=1)})


def test_numbers_of_kinds_are_the_handlers_or_the_next_free() -> None:
    """A handler marked with a number keeps it; names get the numbers that nobody took."""

    @mpy6a.handler(2)
    async def second(repeat: mpy6a.RepeatData) -> None: ...

    @mpy6a.handler("first")
    async def first(repeat: mpy6a.RepeatData) -> None: ...

    policy = testing.pipe(first, second, kinds={"third": Kind()})._policy
    assert {kind.name: number for number, kind in policy.kinds.items()} == {"third": 1, "kind-2": 2, "first": 3}


@in_loop
async def test_a_new_session_that_is_asked_for_late_is_told_no_lie() -> None:
    """It was answered, ran into its limit, a handler finished it, and a day went by: what its caller says then is
    never applied, and is not answered as if it were."""
    ran: list[str] = []

    @mpy6a.handler("work")
    async def work(repeat: mpy6a.RepeatData[mpy6a.AsyncSession]) -> None:
        ran.append(repeat.session.id)
        await repeat.session.delete()

    async with testing.pipe(work) as pipe:
        new = pipe.new("work", b"first")
        await pipe.settle()
        await pipe.advance(timedelta(hours=1))
        assert len(ran) == 1
        await pipe.advance(timedelta(hours=25))
        await (await pipe.new("work", b"whatever lets the log time be heard")).delete()
        session = await new
        said = [session.append(b"never applied"), session.delete()]
        for one in said:
            with pytest.raises(mpy6a.OutcomeUnknown):
                await one
