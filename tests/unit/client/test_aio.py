"""The async client against an honest pipe behind a real socket."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import mpy6a
from mpy6a.client.writer import Decision
from mpy6a.messages import Goodbye, Heartbeat, Hello
from mpy6a.model import Verb
from tests.fakes.hop import FakePipe, Hop
from tests.unit.client.running import door, only, run


def test_the_worked_example(hop: Hop) -> None:
    """New, appends, fence and delete as in the documentation; everything awaited is durable at the pipe."""

    async def main() -> None:
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

    run(main())


def test_constructing_does_no_io(short_tmp: Path) -> None:
    """Neither a loop nor a door is needed, and no thread is started, until the first operation."""
    threads = threading.active_count()
    pipe = mpy6a.AsyncPipe(str(short_tmp / "nobody.sock"))
    assert pipe.address == f"ipc://{short_tmp.resolve()}/nobody.sock"
    assert threading.active_count() == threads
    run(pipe.aclose())


def test_operations_have_their_place_when_called(hop: Hop) -> None:
    """Called without awaiting, they are applied in that order, in few batches."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            session = await pipe.new("user-create")
            calls = [session.append(b"%d" % number) for number in range(50)]
            calls.append(session.delete())
            await calls[-1]
            assert all(call.done() for call in calls)
        assert only(hop.pipe).records == [b"%d" % number for number in range(50)]
        assert len(hop.pipe.batches) == 2

    run(main())


def test_many_tasks_share_batches(hop: Hop) -> None:
    """What all tasks call in one turn of the loop is one message."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:

            async def one() -> None:
                async with pipe.new("user-create") as session:
                    await session.append(b"x")
                    await session.delete()

            await asyncio.gather(*(one() for _ in range(100)))
        assert len(hop.pipe.sessions) == 100
        assert len(hop.pipe.batches) < 20

    run(main())


def test_local_errors_come_at_the_call(hop: Hop) -> None:
    """TooLarge, unknown kinds and wrong arguments are raised before anything is sent; the session is untouched."""

    async def main() -> None:
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

    run(main())


def test_a_timeout_says_that_the_outcome_is_not_known(hop: Hop) -> None:
    """The operation keeps its place: the next one waits behind it, and both are applied when the pipe answers."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            session = await pipe.new("user-create")
            hop.pipe.lose_acks = 1
            exchange = pipe.driver().connection.exchange(1)
            exchange.timeout_ms = 20
            with pytest.raises(mpy6a.OutcomeUnknown, match="keeps its place"):
                await session.append(b"a")
            exchange.timeout_ms = 30_000
            later = session.delete()
            exchange.resend(0)
            await later
        assert only(hop.pipe).records == [b"a"]
        assert only(hop.pipe).state == "GONE"

    run(main())


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


def test_a_cancelled_new_leaves_no_open_session(hop: Hop) -> None:
    """Its session, if it was made, is stored: a handler finds it, and nobody waits for the idle limit."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            await (await pipe.new("user-create")).delete()
            opening = asyncio.ensure_future(_awaited(pipe.new("invoice")))
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            assert opening.cancelled()
            await asyncio.to_thread(hop.wait_for, lambda fake: bool(fake.stored_by_policy()))
        assert [session.kind for session in hop.pipe.stored_by_policy()] == [2]

    run(main())


def test_a_cancelled_operation_keeps_its_place(hop: Hop) -> None:
    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            session = await pipe.new("user-create")
            session.append(b"a").cancel()
            await session.append(b"b")
            await session.delete()
        assert only(hop.pipe).records == [b"a", b"b"]

    run(main())


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


def test_closing_waits_for_what_was_called(hop: Hop) -> None:
    """Operations called and not awaited are durable when `aclose` returns; later ones are refused."""

    async def main() -> None:
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

    run(main())


def test_closing_without_an_answer_says_that_it_is_not_known(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpy6a.limits.CLOSE_TIMEOUT_S", 0.01)

    async def main() -> None:
        pipe = mpy6a.AsyncPipe(hop.address)
        session = await pipe.new("user-create")
        hop.pipe.ignore_batches = 99
        call = session.append(b"a")
        await pipe.aclose()
        with pytest.raises(mpy6a.OutcomeUnknown, match="closed before"):
            await call

    run(main())


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


def test_verbs_as_they_arrive(hop: Hop) -> None:
    """What each method sends, with its argument."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            session = await pipe.new(2, json=[1], key="k", order_key="o", schema="s", trace="00-1-2-01")
            await session.store(after=0)
            assert session._writer.decision is Decision.DONE
        (_, new), (_, store) = hop.pipe.batches
        assert (new.ops[0].verb, new.ops[0].argument, new.ops[0].record) == (Verb.NEW, 2, b"[1]")
        assert new.extras == [(0, "k", "o", "s", b"00-1-2-01")]
        assert (store.ops[0].verb, store.ops[0].argument, store.ops[0].seq) == (Verb.STORE, 0, 1)

    run(main())


@pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning")
def test_a_pipe_that_is_forgotten_is_let_go(hop: Hop) -> None:
    """Neither closed nor referenced after its loop: its sockets and its heartbeats end, and nothing waits for them."""

    async def main() -> None:
        await mpy6a.AsyncPipe(hop.address).new("user-create")
        await asyncio.to_thread(hop.wait_for, lambda fake: bool(fake.named(Heartbeat)))

    run(main())
    threads = [thread for thread in threading.enumerate() if thread.name == "mpy6a-heartbeat"]
    gc.collect()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    gc.collect()
