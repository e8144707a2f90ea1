"""The async client against an honest pipe behind a real socket."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

import mpy6a
from mpy6a.client.writer import Decision
from mpy6a.errors import Code
from mpy6a.messages import Goodbye, Heartbeat, Hello
from mpy6a.model import BY_POLICY, Verb
from tests.fakes.hop import FakePipe, FakeSession, Hop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run with a deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(10):
            return await main

    return asyncio.run(bounded())


def door(short_tmp: Path) -> str:
    return f"ipc://{short_tmp}/door.sock"


def only(pipe: FakePipe) -> FakeSession:
    (session,) = pipe.sessions.values()
    return session


def test_the_worked_example(short_tmp: Path) -> None:
    """New, appends, fence and delete as in the documentation; everything awaited is durable at the pipe."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address, name="test") as pipe:  # noqa: SIM117 -- as users write it
            async with pipe.new("user-create", b"first") as session:
                assert (session.id, session.kind, session.epoch) == ("1.3.100", "user-create", 1)
                assert session.fence_number == 3 << 32 | 1
                assert session.fence == {"Mpy6a-Session": "1.3.100", "Mpy6a-Fence": str(3 << 32 | 1)}
                assert not session.cancelled
                await session.append(json={"a": 1})
                await session.append(b"two")
                assert only(hop.pipe).records == [b"first", b'{"a":1}', b"two"]
                await session.replace(b"one")
                await session.touch()
                assert only(hop.pipe).records == [b"one"]
                await session.delete()
                assert only(hop.pipe).state == "GONE"
        hop.wait_for(lambda fake: bool(fake.named(Goodbye)))
        assert hop.pipe.named(Hello) == [Hello(pid=os.getpid(), name="test")]

    with Hop(door(short_tmp)) as hop:
        run(main(hop))
        assert not hop.pipe.violations


def test_constructing_does_no_io(short_tmp: Path) -> None:
    """Neither a loop nor a door is needed, and no thread is started, until the first operation."""
    threads = threading.active_count()
    pipe = mpy6a.AsyncPipe(str(short_tmp / "nobody.sock"))
    assert pipe.address == f"ipc://{short_tmp.resolve()}/nobody.sock"
    assert threading.active_count() == threads
    run(pipe.aclose())


def test_operations_have_their_place_when_called(short_tmp: Path) -> None:
    """Called without awaiting, they are applied in that order, in few batches."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            session = await pipe.new("user-create")
            calls = [session.append(b"%d" % number) for number in range(50)]
            calls.append(session.delete())
            await calls[-1]
            assert all(call.done() for call in calls)
        assert only(hop.pipe).records == [b"%d" % number for number in range(50)]
        assert len(hop.pipe.batches) == 2

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_many_tasks_share_batches(short_tmp: Path) -> None:
    """What all tasks call in one turn of the loop is one message."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:

            async def one() -> None:
                async with pipe.new("user-create") as session:
                    await session.append(b"x")
                    await session.delete()

            await asyncio.gather(*(one() for _ in range(100)))
        assert len(hop.pipe.sessions) == 100
        assert len(hop.pipe.batches) < 20

    with Hop(door(short_tmp)) as hop:
        run(main(hop))
        assert not hop.pipe.violations


def test_leaving_undecided_stores_and_warns(short_tmp: Path) -> None:
    """A clean exit without a decision stores by the kind's delay, and names the place once."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.warns(mpy6a.UndecidedSession, match="left without delete"):
                async with pipe.new("user-create"):
                    pass
        assert only(hop.pipe).store_after_ms == BY_POLICY

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_the_warning_comes_once_per_call_site(short_tmp: Path) -> None:
    """A loop over one place does not fill the log."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                for _ in range(3):
                    async with pipe.new("user-create"):
                        pass
            assert [(each.category, each.filename) for each in caught] == [(mpy6a.UndecidedSession, __file__)]

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_leaving_by_an_error_stores_and_does_not_mask_it(short_tmp: Path) -> None:
    """The error comes out as it was, without a warning, and the session is stored."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- the block is what is tested
                async with pipe.new("user-create") as session:
                    session.append(b"x")
                    raise ZeroDivisionError
        assert only(hop.pipe).store_after_ms == BY_POLICY
        assert only(hop.pipe).records == [b"x"]

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_leaving_by_an_error_waits_a_second_at_most(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that does not answer does not hold the error up."""
    monkeypatch.setattr("mpy6a.limits.LEAVE_TIMEOUT_S", 0.01)
    monkeypatch.setattr("mpy6a.limits.CLOSE_TIMEOUT_S", 0.01)

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- the block is what is tested
                async with pipe.new("user-create"):
                    hop.pipe.ignore_batches = 99
                    raise ZeroDivisionError

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_a_decision_that_was_called_is_waited_for(short_tmp: Path) -> None:
    """Leaving the block after an un-awaited delete() neither stores nor warns, and the session is finished."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            async with pipe.new("user-create") as session:
                session.delete()
            assert only(hop.pipe).state == "GONE"
            with pytest.raises(mpy6a.SessionClosed):
                session.append(b"x")

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_a_refusal_nobody_awaited_surfaces_at_the_next_operation(short_tmp: Path) -> None:
    """Once, as AfterRefusal with the refusal as its cause; then the session can be decided."""

    async def main(hop: Hop) -> None:
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        async with mpy6a.AsyncPipe(hop.address) as pipe, pipe.new("user-create") as session:
            session.append(b"no")
            await asyncio.wait([session.append(b"behind")])
            with pytest.raises(mpy6a.AfterRefusal) as caught:
                session.append(b"later")
            assert isinstance(caught.value.__cause__, mpy6a.DiskLow)
            await session.append(b"fine")
            await session.delete()
        assert only(hop.pipe).records == [b"fine"]

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_a_refusal_that_was_awaited_does_not_surface_again(short_tmp: Path) -> None:
    async def main(hop: Hop) -> None:
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        async with mpy6a.AsyncPipe(hop.address) as pipe, pipe.new("user-create") as session:
            with pytest.raises(mpy6a.DiskLow):
                await session.append(b"no")
            await session.delete()

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_a_refusal_nobody_awaited_surfaces_at_leaving(short_tmp: Path) -> None:
    """The session is stored all the same, and nobody has to guess why its handler runs."""

    async def main(hop: Hop) -> None:
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(mpy6a.DiskLow):  # noqa: PT012 -- the block is what is tested
                async with pipe.new("user-create") as session:
                    session.append(b"no")
                    session.delete()
        assert only(hop.pipe).state == "STORED"

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_a_refusal_behind_which_the_leaving_store_stands(short_tmp: Path) -> None:
    """An un-awaited refused operation right before the end: the session is stored, and the refusal comes out."""

    async def main(hop: Hop) -> None:
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.warns(mpy6a.UndecidedSession), pytest.raises(mpy6a.DiskLow):
                async with pipe.new("user-create") as session:
                    session.append(b"no")
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- the block is what is tested
                async with pipe.new("user-create") as session:
                    session.append(b"no")
                    raise ZeroDivisionError
        assert [session.state for session in hop.pipe.sessions.values()] == ["STORED"] * 2

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_dropped_operations_behind_a_refusal_make_no_noise(short_tmp: Path) -> None:
    """Asyncio does not complain about AfterRefusal errors that nobody retrieved."""
    complaints: list[object] = []

    async def main(hop: Hop) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(mpy6a.DiskLow):  # noqa: PT012 -- the block is what is tested
                async with pipe.new("user-create") as session:
                    session.append(b"no")
                    session.append(b"a")
                    session.append(b"b")
                    await asyncio.wait([session.touch()])
            del session
        gc.collect()

    with Hop(door(short_tmp)) as hop:
        run(main(hop))
    assert complaints == []


def test_local_errors_come_at_the_call(short_tmp: Path) -> None:
    """TooLarge, unknown kinds and wrong arguments are raised before anything is sent; the session is untouched."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe, pipe.new("user-create") as session:
            with pytest.raises(mpy6a.TooLarge):
                session.append(bytes(2**20 + 1))
            with pytest.raises(mpy6a.BadRequest):
                session.append()
            with pytest.raises(mpy6a.BadRequest):
                session.store(after=-1)
            with pytest.raises(mpy6a.BadRequest, match="for handlers"):
                session.release()
            with pytest.raises(mpy6a.BadRequest, match="for handlers"):
                session.park("why")
            with pytest.raises(mpy6a.UnknownKind, match="did you mean 'user-create'"):
                pipe.new("user-creat")
            await session.store(after=0.5)
        assert only(hop.pipe).store_after_ms == 500

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_a_timeout_says_that_the_outcome_is_not_known(short_tmp: Path) -> None:
    """The operation keeps its place: the next one waits behind it, and both are applied when the pipe answers."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address, timeout=0.05) as pipe:
            session = await pipe.new("user-create")
            hop.pipe.lose_acks = 1
            with pytest.raises(mpy6a.OutcomeUnknown, match="keeps its place"):
                await session.append(b"a")
            later = session.delete()
            driver = pipe.driver()
            driver.connection.exchanges[1].resend(0)
            driver.wake()
            await later
        assert only(hop.pipe).records == [b"a"]
        assert only(hop.pipe).state == "GONE"

    with Hop(door(short_tmp)) as hop:
        run(main(hop))
        assert not hop.pipe.violations


def test_nobody_at_the_door(short_tmp: Path) -> None:
    """A New that was never sent says so, names the door, and is not done when somebody comes."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(door(short_tmp), timeout=0.02) as pipe:
            with pytest.raises(mpy6a.NoPipe, match="nobody answers at ipc://"):
                await pipe.new("user-create")
            with Hop(door(short_tmp)) as hop:
                await asyncio.to_thread(hop.wait_for, lambda fake: bool(fake.named(Hello)))
                assert hop.pipe.batches == []

    run(main())


def test_a_client_may_start_before_its_door(short_tmp: Path) -> None:
    """What is called while nobody is there is done when somebody comes."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(door(short_tmp)) as pipe:
            opening = asyncio.ensure_future(_awaited(pipe.new("user-create")))
            await asyncio.sleep(0)
            with Hop(door(short_tmp)) as hop:
                session = await opening
                await session.delete()
                assert only(hop.pipe).state == "GONE"

    run(main())


async def _awaited(new: Any) -> mpy6a.AsyncSession:  # Any: NewSession is no public name
    session: mpy6a.AsyncSession = await new
    return session


def test_a_door_that_dies_and_comes_back(short_tmp: Path) -> None:
    """Everything unanswered is sent again to the next process on the same door, and applied once."""

    async def main() -> None:
        fake = FakePipe()
        async with mpy6a.AsyncPipe(door(short_tmp)) as pipe:
            with Hop(door(short_tmp), fake):
                session = await pipe.new("user-create")
                fake.ignore_batches = 1
                appended = session.append(b"a")
                await asyncio.sleep(0.01)
            with Hop(door(short_tmp), fake):
                await appended
                await session.delete()
        assert only(fake).records == [b"a"]
        assert not fake.violations

    run(main())


def test_a_cancelled_new_leaves_no_open_session(short_tmp: Path) -> None:
    """Its session, if it was made, is stored: a handler finds it, and nobody waits for the idle limit."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            await (await pipe.new("user-create")).delete()
            opening = asyncio.ensure_future(_awaited(pipe.new("invoice")))
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            assert opening.cancelled()
            await asyncio.to_thread(hop.wait_for, lambda fake: bool(fake.stored_by_policy()))
        assert [session.kind for session in hop.pipe.stored_by_policy()] == [2]

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_a_cancelled_operation_keeps_its_place(short_tmp: Path) -> None:
    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            session = await pipe.new("user-create")
            session.append(b"a").cancel()
            await session.append(b"b")
            await session.delete()
        assert only(hop.pipe).records == [b"a", b"b"]

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_heartbeats_come_from_a_thread_of_their_own(short_tmp: Path) -> None:
    """While the loop is blocked the lease is kept; after the goodbye no heartbeat comes."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            session = await pipe.new("user-create")
            beats = len(hop.pipe.named(Heartbeat))
            hop.wait_for(lambda fake: len(fake.named(Heartbeat)) >= beats + 3)  # blocks the loop
            await session.delete()
        hop.wait_for(lambda fake: bool(fake.named(Goodbye)))
        names = [type(message) for _, message in hop.pipe.got]
        assert Heartbeat not in names[names.index(Goodbye) :]
        assert len({incarnation for incarnation, _ in hop.pipe.got}) == 1

    fake = FakePipe()
    fake.lease_ms = 30
    with Hop(door(short_tmp), fake) as hop:
        run(main(hop))


def test_closing_waits_for_what_was_called(short_tmp: Path) -> None:
    """Operations called and not awaited are durable when `aclose` returns; later ones are refused."""

    async def main(hop: Hop) -> None:
        pipe = mpy6a.AsyncPipe(hop.address)
        session = await pipe.new("user-create")
        session.append(b"a")
        session.delete()
        await pipe.aclose()
        await pipe.aclose()
        assert only(hop.pipe).records == [b"a"]
        assert only(hop.pipe).state == "GONE"
        with pytest.raises(mpy6a.SessionClosed):
            pipe.new("user-create")
        with pytest.raises(mpy6a.SessionClosed):
            session.append(b"b")

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_closing_without_an_answer_says_that_it_is_not_known(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpy6a.limits.CLOSE_TIMEOUT_S", 0.01)

    async def main(hop: Hop) -> None:
        pipe = mpy6a.AsyncPipe(hop.address)
        session = await pipe.new("user-create")
        hop.pipe.ignore_batches = 99
        call = session.append(b"a")
        await pipe.aclose()
        with pytest.raises(mpy6a.OutcomeUnknown, match="closed before"):
            await call

    with Hop(door(short_tmp)) as hop:
        run(main(hop))


def test_one_loop_at_a_time(short_tmp: Path) -> None:
    """In a second loop a pipe object starts anew when the first has ended, and is refused while it runs."""

    async def use(pipe: mpy6a.AsyncPipe) -> mpy6a.AsyncSession:
        return await pipe.new("user-create")

    with Hop(door(short_tmp)) as hop:
        pipe = mpy6a.AsyncPipe(hop.address)
        old = run(use(pipe))
        new = run(use(pipe))
        assert old.id != new.id
        hop.wait_for(lambda fake: len(fake.named(Goodbye)) == 1)

        async def both() -> None:
            await use(pipe)
            with pytest.raises(mpy6a.SessionClosed, match="loop of this session has ended"):
                old.append(b"x")
            with pytest.raises(mpy6a.BadRequest, match="another event loop"):
                await asyncio.to_thread(asyncio.run, use(pipe))
            await pipe.aclose()

        run(both())


def test_verbs_as_they_arrive(short_tmp: Path) -> None:
    """What each method sends, with its argument."""

    async def main(hop: Hop) -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            session = await pipe.new(2, json=[1], key="k", order_key="o", schema="s", trace="00-1-2-01")
            await session.store(after=0)
            assert session._writer.decision is Decision.DONE
        (_, new), (_, store) = hop.pipe.batches
        assert (new.ops[0].verb, new.ops[0].argument, new.ops[0].record) == (Verb.NEW, 2, b"[1]")
        assert new.extras == [(0, "k", "o", "s", b"00-1-2-01")]
        assert (store.ops[0].verb, store.ops[0].argument, store.ops[0].seq) == (Verb.STORE, 0, 1)

    with Hop(door(short_tmp)) as hop:
        run(main(hop))
