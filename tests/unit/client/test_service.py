"""A service that serves kinds itself: pushes in, handlers run, outcomes out, over a real socket."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import mpy6a
from mpy6a.client.handlers import read
from mpy6a.errors import Code
from mpy6a.messages import (
    Ending,
    Error,
    Goodbye,
    Hello,
    MessageType,
    Outcomes,
    Push,
    RepeatPart,
    Role,
    Serve,
    SessionEpoch,
    Stop,
)
from mpy6a.model import BY_POLICY, NOBODY, Attempt, AttemptOutcome
from tests.fakes.hop import FakePipe, FakeSession, Hop

Handler = Callable[..., object]


class Sidecar:
    """A hop in the sidecar's role: pushes sessions of the fake pipe, and reads what the service says."""

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.pipe = hop.pipe
        self.index = 500

    def push(self, *records: bytes, kind: int = 1, parts: int = 1) -> FakeSession:
        """One session in epoch 2, repeating here, to the service that said hello last."""
        self.index += 1
        session = self.pipe.sessions[3, self.index] = FakeSession(
            kind, NOBODY, epoch=2, state="REPEATING", records=list(records)
        )
        whole = RepeatPart(
            3,
            self.index,
            2,
            3 << 32 | 2,
            kind,
            created_ms=77,
            repeats=4,
            cancel=True,
            records=records,
            attempts=(Attempt(1, 5, 6, AttemptOutcome.FAIL, True, "users", "no"),),
            key="k",
            trace=b"00-1",
        )
        size = -(-len(records) // parts)
        for part in range(parts):
            some = records[part * size : (part + 1) * size]
            self.tell(Push(0, 0, NOBODY[:15] + b"\1", (whole._replace(part=part, parts=parts, records=some),)))
        return session

    def stop(self) -> None:
        """Takes the session that was pushed last away."""
        self.tell(Stop(0, 0, Code.FENCED, (SessionEpoch(3, self.index, 2),)))

    def tell(self, message: Push | Stop | Error) -> None:
        incarnation = next(who for who, value in reversed(self.pipe.got) if isinstance(value, Hello))
        self.hop.tell(incarnation, message)

    def endings(self) -> list[Ending]:
        return [ending for _, value in self.pipe.got if isinstance(value, Outcomes) for ending in value.endings]

    async def until(self, condition: Callable[[], bool]) -> None:
        await asyncio.to_thread(self.hop.wait_for, lambda _: condition())

    async def ending(self, count: int = 1) -> Ending:
        await self.until(lambda: len(self.endings()) >= count)
        return self.endings()[count - 1]


def serve(
    short_tmp: Path, main: Callable[[Sidecar], Awaitable[object]], *handlers: Handler, concurrency: int = 4
) -> Sidecar:
    """Runs `main` beside a service with these handlers, and stops the service when it is through."""
    fake = FakePipe(role=Role.SIDECAR)

    async def both(hop: Hop) -> Sidecar:
        sidecar = Sidecar(hop)
        async with asyncio.timeout(10), mpy6a.AsyncPipe(hop.address) as pipe:
            serving = asyncio.ensure_future(pipe.serve(*handlers, concurrency=concurrency))
            await sidecar.until(lambda: bool(fake.named(Serve)))
            await main(sidecar)
            serving.cancel()
            await asyncio.wait([serving])
            assert serving.cancelled()
        await sidecar.until(lambda: bool(fake.named(Goodbye)))
        return sidecar

    with Hop(f"ipc://{short_tmp}/door.sock", fake) as hop:
        sidecar = asyncio.run(both(hop))
        assert not fake.violations
        return sidecar


@mpy6a.handler("user-create")
async def finishes(repeat: mpy6a.RepeatData) -> None:
    await repeat.session.append(b"seen")
    await repeat.session.delete()


def test_an_async_handler_gets_the_data_and_finishes(short_tmp: Path) -> None:
    """It is given records, facts and the session in its epoch; its delete is durable, and the outcome DECIDED."""
    seen: list[mpy6a.RepeatData] = []

    @mpy6a.handler("user-create")
    async def handler(repeat: mpy6a.RepeatData) -> None:
        seen.append(repeat)
        await finishes(repeat)

    async def main(sidecar: Sidecar) -> None:
        session = sidecar.push(b'{"a":1}', b"two")
        assert await sidecar.ending() == Ending(3, 501, 2, AttemptOutcome.DECIDED)
        assert session.state == "GONE"
        assert session.records == [b'{"a":1}', b"two", b"seen"]

    sidecar = serve(short_tmp, main, handler)
    (repeat,) = seen
    assert repeat.records == (b'{"a":1}', b"two")
    assert repeat.records[0].json() == {"a": 1}
    assert (repeat.kind, repeat.repeats, repeat.cancel, repeat.key, repeat.trace, repeat.created_ms) == (
        "user-create",
        4,
        True,
        "k",
        "00-1",
        77,
    )
    assert repeat.attempts[0].message == "no"
    assert (repeat.session.id, repeat.session.epoch) == ("1.3.501", 2)
    assert repeat.session.fence == {"Mpy6a-Session": "1.3.501", "Mpy6a-Fence": str(3 << 32 | 2)}
    assert sidecar.pipe.named(Serve) == [Serve((1,), 4), Serve((1,), 0)]


def test_a_plain_handler_runs_in_a_thread(short_tmp: Path) -> None:
    """Its session is blocking; several run at once."""
    both = threading.Barrier(2)
    loop_thread = threading.get_ident()

    @mpy6a.handler(1)
    def handler(repeat: mpy6a.RepeatData[mpy6a.Session]) -> None:
        assert threading.get_ident() != loop_thread
        both.wait(5)
        repeat.session.append(b"seen")
        repeat.session.store(after=7)

    async def main(sidecar: Sidecar) -> None:
        sessions = [sidecar.push(b"x"), sidecar.push(b"y")]
        await sidecar.ending(2)
        assert [session.store_after_ms for session in sessions] == [7_000, 7_000]
        assert {ending.outcome for ending in sidecar.endings()} == {AttemptOutcome.DECIDED}

    serve(short_tmp, main, handler)


def test_a_session_in_parts_is_handed_over_whole(short_tmp: Path) -> None:
    """The handler starts once the last part has come, with all records in order."""
    records = [b"%d" % number for number in range(10)]

    async def main(sidecar: Sidecar) -> None:
        session = sidecar.push(*records, parts=3)
        await sidecar.ending()
        assert session.records == [*records, b"seen"]

    serve(short_tmp, main, finishes)


def test_raising_or_returning_undecided_fails(short_tmp: Path) -> None:
    """The message names class and text, in at most 512 bytes; an undecided return says so."""

    @mpy6a.handler("user-create")
    async def raises(repeat: mpy6a.RepeatData) -> None:
        raise ValueError("ü" * 400)

    @mpy6a.handler("invoice")
    def undecided(repeat: mpy6a.RepeatData[mpy6a.Session]) -> None:
        repeat.session.append(b"half")

    async def main(sidecar: Sidecar) -> None:
        sidecar.push(b"x")
        failed = await sidecar.ending()
        assert failed.outcome == AttemptOutcome.FAIL
        assert failed.message == "ValueError: " + "ü" * 250
        sidecar.push(b"x", kind=2)
        failed = await sidecar.ending(2)
        assert failed.outcome == AttemptOutcome.FAIL
        assert failed.message == "the handler returned without delete() or store()"

    serve(short_tmp, main, raises, undecided)


def test_release_and_park_are_told_when_the_handler_returns(short_tmp: Path) -> None:
    """In both shapes; nothing may be done to the session after them."""

    @mpy6a.handler("user-create")
    async def handler(repeat: mpy6a.RepeatData) -> None:
        session = repeat.session
        if repeat.records[0] == b"park":
            await session.park("look at it")
            with pytest.raises(mpy6a.SessionClosed):
                session.append(b"x")
        else:
            await session.release()
            with pytest.raises(mpy6a.SessionClosed):
                session.park("too late")

    @mpy6a.handler("invoice")
    def plain(repeat: mpy6a.RepeatData[mpy6a.Session]) -> None:
        if repeat.records[0] == b"park":
            repeat.session.park("look")
        else:
            repeat.session.release(after=3)
            with pytest.raises(mpy6a.SessionClosed):
                repeat.session.delete()

    async def main(sidecar: Sidecar) -> None:
        sidecar.push(b"park")
        assert await sidecar.ending() == Ending(3, 501, 2, AttemptOutcome.PARK, 0, "look at it")
        sidecar.push(b"release")
        assert await sidecar.ending(2) == Ending(3, 502, 2, AttemptOutcome.RELEASE, BY_POLICY, "")
        sidecar.push(b"park", kind=2)
        assert await sidecar.ending(3) == Ending(3, 503, 2, AttemptOutcome.PARK, 0, "look")
        sidecar.push(b"release", kind=2)
        assert await sidecar.ending(4) == Ending(3, 504, 2, AttemptOutcome.RELEASE, 3_000, "")

    serve(short_tmp, main, handler, plain)


def test_a_fenced_handler_has_nothing_to_tell(short_tmp: Path) -> None:
    """When the pipe says FENCED or GONE somebody else has the session: the run is over, and did not fail."""

    async def main(sidecar: Sidecar) -> None:
        sidecar.pipe.refuse = lambda op: Code.FENCED
        sidecar.push(b"x")
        assert (await sidecar.ending()).outcome == AttemptOutcome.DECIDED

    serve(short_tmp, main, finishes)


def test_a_decision_counts_whatever_happens_after_it(short_tmp: Path) -> None:
    """A handler that raises behind its delete has decided; so has one that did not await it."""

    @mpy6a.handler("user-create")
    async def handler(repeat: mpy6a.RepeatData) -> None:
        repeat.session.delete()
        raise ValueError

    async def main(sidecar: Sidecar) -> None:
        session = sidecar.push(b"x")
        assert (await sidecar.ending()).outcome == AttemptOutcome.DECIDED
        assert session.state == "GONE"

    serve(short_tmp, main, handler)


def test_a_stopped_run_is_cancelled(short_tmp: Path) -> None:
    """An async handler's task is cancelled, a plain one's session says so; nobody waits for an outcome of either."""
    began = threading.Semaphore(0)
    stopped: list[str] = []
    go_on = threading.Event()

    @mpy6a.handler("user-create")
    async def handler(repeat: mpy6a.RepeatData) -> None:
        began.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(f"async {repeat.session.cancelled}")
            raise

    @mpy6a.handler("invoice")
    def plain(repeat: mpy6a.RepeatData[mpy6a.Session]) -> None:
        began.release()
        assert go_on.wait(5)
        stopped.append(f"plain {repeat.session.cancelled}")
        with pytest.raises(mpy6a.Fenced):
            repeat.session.delete()
        began.release()

    async def main(sidecar: Sidecar) -> None:
        for kind in (1, 2):
            sidecar.push(b"x", kind=kind)
            assert await asyncio.to_thread(began.acquire, True, 5)
            sidecar.stop()
        sidecar.push(b"park", kind=3)  # nobody's kind; its answer comes behind what the stops did
        await sidecar.ending()
        go_on.set()
        assert await asyncio.to_thread(began.acquire, True, 5)
        assert stopped == ["async True", "plain True"]

    sidecar = serve(short_tmp, main, handler, plain)
    assert [ending.outcome for ending in sidecar.endings()] == [AttemptOutcome.RELEASE]


def test_no_more_than_the_concurrency_run(short_tmp: Path) -> None:
    """What comes beyond it waits; what comes beyond that is given back."""
    running: list[mpy6a.RepeatData] = []
    go_on = asyncio.Event()

    @mpy6a.handler("user-create")
    async def handler(repeat: mpy6a.RepeatData) -> None:
        running.append(repeat)
        await go_on.wait()
        await repeat.session.delete()

    async def main(sidecar: Sidecar) -> None:
        for _ in range(5):
            sidecar.push(b"x")
        ending = await sidecar.ending()
        assert (ending.index, ending.outcome) == (505, AttemptOutcome.RELEASE)
        assert len(running) == 2
        go_on.set()
        await sidecar.ending(5)
        assert len(running) == 4

    serve(short_tmp, main, handler, concurrency=2)


def test_stopping_drains(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is taken; running handlers get their grace, then they are cancelled and their sessions given back."""
    monkeypatch.setattr("mpy6a.limits.DRAIN_GRACE_S", 0.3)
    began = threading.Semaphore(0)

    @mpy6a.handler("user-create")
    async def handler(repeat: mpy6a.RepeatData) -> None:
        began.release()
        if repeat.records[0] == b"slow":
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        await repeat.session.delete()

    async def main(sidecar: Sidecar) -> None:
        sidecar.push(b"slow")
        sidecar.push(b"quick")
        for _ in range(2):
            assert await asyncio.to_thread(began.acquire, True, 5)

    sidecar = serve(short_tmp, main, handler)
    assert sidecar.endings() == [
        Ending(3, 502, 2, AttemptOutcome.DECIDED),
        Ending(3, 501, 2, AttemptOutcome.RELEASE, 0, "the service is stopping"),
    ]
    names = [type(message) for _, message in sidecar.pipe.got]
    assert names.index(Goodbye) == len(names) - 1


def test_the_last_outcomes_leave_before_the_goodbye(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when serving and closing end in one go, as after a Ctrl-C."""
    monkeypatch.setattr("mpy6a.limits.DRAIN_GRACE_S", 0.01)
    began = threading.Event()

    @mpy6a.handler("user-create")
    async def handler(repeat: mpy6a.RepeatData) -> None:
        began.set()
        await asyncio.Event().wait()

    async def service(address: str) -> None:
        async with mpy6a.AsyncPipe(address) as pipe:
            await pipe.serve(handler)

    async def main(hop: Hop) -> None:
        sidecar = Sidecar(hop)
        serving = asyncio.ensure_future(service(hop.address))
        await sidecar.until(lambda: bool(hop.pipe.named(Serve)))
        sidecar.push(b"x")
        assert await asyncio.to_thread(began.wait, 5)
        serving.cancel()
        await asyncio.wait([serving])
        await sidecar.until(lambda: bool(hop.pipe.named(Goodbye)))
        assert [ending.outcome for ending in sidecar.endings()] == [AttemptOutcome.RELEASE]

    with Hop(f"ipc://{short_tmp}/door.sock", FakePipe(role=Role.SIDECAR)) as hop:
        asyncio.run(main(hop))


def test_a_new_connection_is_served_again(short_tmp: Path) -> None:
    """To the same sidecar process the last outcomes are repeated, which it may have missed; to another they are not."""

    async def main(sidecar: Sidecar) -> None:
        sidecar.push(b"x")
        first = await sidecar.ending()
        sidecar.hop.pipe.got.clear()
        await asyncio.to_thread(sidecar.hop.restart)
        await sidecar.until(lambda: bool(sidecar.pipe.named(Serve)))
        assert await sidecar.ending() == first
        sidecar.hop.pipe.got.clear()
        sidecar.pipe.hop = os.urandom(16)
        await asyncio.to_thread(sidecar.hop.restart)
        await sidecar.until(lambda: bool(sidecar.pipe.named(Serve)))
        sidecar.push(b"y")
        assert (await sidecar.ending()).index == 502

    serve(short_tmp, main, finishes)


def test_a_refused_serve_is_raised(short_tmp: Path) -> None:
    """Unknown kinds, a sidecar whose routes do not list the kind, and a door that is no sidecar end `serve`."""

    @mpy6a.handler("invoyce")
    async def misspelt(repeat: mpy6a.RepeatData) -> None: ...

    async def main(hop: Hop) -> None:
        async with asyncio.timeout(10), mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(mpy6a.UnknownKind, match="did you mean 'invoice'"):
                await pipe.serve(misspelt)
            serving = asyncio.ensure_future(pipe.serve(finishes))
            sidecar = Sidecar(hop)
            await sidecar.until(lambda: bool(hop.pipe.named(Serve)))
            with pytest.raises(mpy6a.BadRequest, match="serves already"):
                await pipe.serve(finishes)
            sidecar.tell(Error(Code.SHUTTING_DOWN, "going", MessageType.SERVE))
            sidecar.tell(Error(Code.UNKNOWN_KIND, "list the sidecar there", MessageType.SERVE))
            with pytest.raises(mpy6a.UnknownKind, match="list the sidecar there"):
                await serving
        hop.pipe.role = Role.PIPE
        async with asyncio.timeout(10), mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(mpy6a.BadRequest, match="is a pipe"):
                await pipe.serve(finishes)
            with pytest.raises(mpy6a.BadRequest, match="functions that are marked"):
                await pipe.serve()
            with pytest.raises(mpy6a.BadRequest, match="concurrency=0"):
                await pipe.serve(finishes, concurrency=0)

    with Hop(f"ipc://{short_tmp}/door.sock", FakePipe(role=Role.SIDECAR)) as hop:
        asyncio.run(main(hop))


def test_serving_without_a_loop(short_tmp: Path) -> None:
    """`Pipe.serve` runs in the calling thread until `close` from another."""
    pushed: list[FakeSession] = []

    @mpy6a.handler("user-create")
    def handler(repeat: mpy6a.RepeatData[mpy6a.Session]) -> None:
        repeat.session.delete()

    with Hop(f"ipc://{short_tmp}/door.sock", FakePipe(role=Role.SIDECAR)) as hop:
        sidecar = Sidecar(hop)
        pipe = mpy6a.Pipe(hop.address)

        def push_and_close() -> None:
            try:
                hop.wait_for(lambda fake: bool(fake.named(Serve)))
                pushed.append(sidecar.push(b"x"))
                hop.wait_for(lambda fake: bool(sidecar.endings()))
            finally:
                pipe.close()

        thread = threading.Thread(target=push_and_close)
        thread.start()
        pipe.serve(handler)
        thread.join()
        assert [session.state for session in pushed] == ["GONE"]
        hop.wait_for(lambda fake: bool(fake.named(Goodbye)))


def test_the_mark_changes_nothing_else() -> None:
    """A marked function is the function it was; an unmarked one is refused by name."""

    def plain(repeat: mpy6a.RepeatData[mpy6a.Session]) -> int:
        return len(repeat.records)

    assert mpy6a.handler(7)(plain) is plain
    assert read(plain) == (7, plain, False)
    assert read(finishes) == ("user-create", finishes, True)

    class Callable_:
        async def __call__(self, repeat: mpy6a.RepeatData) -> None: ...

    assert read(mpy6a.handler("k")(Callable_())).is_async
    with pytest.raises(mpy6a.BadRequest, match="Sidecar is not marked"):
        read(Sidecar)
