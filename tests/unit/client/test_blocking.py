"""The blocking client against an honest pipe behind a real socket, from one thread and from many."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

import mpy6a
from mpy6a.client.blocking_driver import BlockingDriver
from mpy6a.client.waiters import Waiter
from mpy6a.client.writer import Writer
from mpy6a.errors import Code
from mpy6a.messages import Goodbye, Heartbeat, Hello
from mpy6a.model import BY_POLICY
from tests.fakes.hop import Hop
from tests.unit.client.running import door, only


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_the_worked_example(hop: Hop) -> None:
    """Each operation is durable when it returns."""
    with mpy6a.Pipe(hop.address, name="test") as pipe, pipe.new("user-create", b"first") as session:
        assert (session.id, session.kind, session.epoch) == ("1.3.100", "user-create", 1)
        assert session.fence == {"Mpy6a-Session": "1.3.100", "Mpy6a-Fence": str(3 << 32 | 1)}
        session.append(json={"a": 1})
        session.append(b"two")
        assert only(hop.pipe).records == [b"first", b'{"a":1}', b"two"]
        session.replace(b"one")
        session.touch()
        assert only(hop.pipe).records == [b"one"]
        session.delete()
        assert only(hop.pipe).state == "GONE"
    hop.wait_for(lambda fake: bool(fake.named(Goodbye)))
    assert hop.pipe.named(Hello) == [Hello(pid=os.getpid(), name="test")]
    names = [type(message) for _, message in hop.pipe.got]
    assert Heartbeat not in names[names.index(Goodbye) :]


def test_constructing_does_no_io(short_tmp: Path) -> None:
    threads = threading.active_count()
    pipe = mpy6a.Pipe(str(short_tmp / "nobody.sock"))
    assert threading.active_count() == threads
    pipe.close()
    with pytest.raises(mpy6a.SessionClosed):
        pipe.new("user-create")


def test_many_threads_share_a_pipe(hop: Hop) -> None:
    """Their operations share batches, and each thread gets its own answers."""
    ids: list[str] = []

    with mpy6a.Pipe(hop.address) as pipe:

        def work() -> None:
            for _ in range(10):
                with pipe.new("user-create") as session:
                    session.append(session.id.encode())
                    session.delete()
                    ids.append(session.id)

        threads = [in_thread(work) for _ in range(8)]
        for thread in threads:
            thread.join()
        assert len(set(ids)) == len(ids) == len(hop.pipe.sessions) == 80
        for (term, index), session in hop.pipe.sessions.items():
            assert session.records == [f"1.{term}.{index}".encode()]
            assert session.state == "GONE"


def test_errors_come_where_they_belong(hop: Hop) -> None:
    """Refusals, local checks and closed sessions raise in the caller, as their own kinds."""
    with mpy6a.Pipe(hop.address) as pipe:
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        with pytest.raises(mpy6a.UnknownKind, match="did you mean 'user-create'"):
            pipe.new("user-creat")
        with pytest.raises(mpy6a.DiskLow):
            pipe.new("user-create", b"no")
        session = pipe.new("user-create")
        with pytest.raises(mpy6a.DiskLow):
            session.append(b"no")
        with pytest.raises(mpy6a.TooLarge):
            session.append(bytes(2**20 + 1))
        with pytest.raises(mpy6a.BadRequest):
            session.append()
        with pytest.raises(mpy6a.BadRequest, match="for handlers"):
            session.release()
        with pytest.raises(mpy6a.BadRequest, match="for handlers"):
            session.park("why")
        session.store(after=2)
        with pytest.raises(mpy6a.SessionClosed):
            session.delete()
        assert only(hop.pipe).store_after_ms == 2_000


def test_leaving_undecided_stores(hop: Hop) -> None:
    """With a warning on a clean exit, without one on an error, which comes out as it was."""
    with mpy6a.Pipe(hop.address) as pipe:
        with pytest.warns(mpy6a.UndecidedSession) as caught, pipe.new("user-create"):
            pass
        assert caught[0].filename == __file__
        with pytest.raises(ZeroDivisionError), pipe.new("user-create"):
            raise ZeroDivisionError
        assert [session.store_after_ms for session in hop.pipe.sessions.values()] == [BY_POLICY] * 2


def test_leaving_by_an_error_waits_a_second_at_most(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that does not answer does not hold the error up, nor closing."""
    monkeypatch.setattr("mpy6a.limits.LEAVE_TIMEOUT_S", 0.01)
    monkeypatch.setattr("mpy6a.limits.CLOSE_TIMEOUT_S", 0.01)
    with mpy6a.Pipe(hop.address) as pipe:
        session = pipe.new("user-create")
        hop.pipe.ignore_batches = 99
        with pytest.raises(ZeroDivisionError), session:
            raise ZeroDivisionError


@contextmanager
def impatient(pipe: mpy6a.Pipe) -> Iterator[None]:
    """Within it operations wait 20 ms, and an unanswered batch is sent again long after that."""
    assert pipe._driver is not None
    exchange = pipe._driver.connection.exchange(1)
    exchange.timeout_ms = 20
    try:
        yield
    finally:
        exchange.timeout_ms = 30_000


def test_a_timeout_says_that_the_outcome_is_not_known(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation keeps its place; if it is refused later, the next one says so."""
    monkeypatch.setattr("mpy6a.limits.RESEND_MS", 100)
    with mpy6a.Pipe(hop.address) as pipe:
        session = pipe.new("user-create")
        hop.pipe.lose_acks = 1
        with impatient(pipe), pytest.raises(mpy6a.OutcomeUnknown, match="keeps its place"):
            session.append(b"a")
        session.append(b"b")
        assert next(iter(hop.pipe.sessions.values())).records == [b"a", b"b"]
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        hop.pipe.lose_acks = 1
        with impatient(pipe), pytest.raises(mpy6a.OutcomeUnknown):
            session.append(b"no")
        hop.wait_for(lambda fake: sum(batch.ops[0].record == b"no" for _, batch in fake.batches) >= 2)
        pipe.new("invoice").delete()  # its answer comes behind the refusal
        with pytest.raises(mpy6a.AfterRefusal) as caught:
            session.append(b"c")
        assert isinstance(caught.value.__cause__, mpy6a.DiskLow)
        session.delete()


def test_a_caller_that_left_its_new_leaves_no_open_session(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A New that timed out and is made by a resend is stored at once."""
    monkeypatch.setattr("mpy6a.limits.RESEND_MS", 100)
    with mpy6a.Pipe(hop.address) as pipe:
        pipe.new("user-create").delete()
        hop.pipe.ignore_batches = 1
        with impatient(pipe), pytest.raises(mpy6a.OutcomeUnknown):
            pipe.new("invoice")
        hop.wait_for(lambda fake: bool(fake.stored_by_policy()))


def test_nobody_at_the_door(short_tmp: Path) -> None:
    with mpy6a.Pipe(door(short_tmp), timeout=0.02) as pipe, pytest.raises(mpy6a.NoPipe, match="nobody answers at ipc:"):
        pipe.new("user-create")


def test_a_pipe_that_is_dropped_says_goodbye(hop: Hop) -> None:
    """Without `close` its thread ends all the same, and its sessions need not wait for the lease."""
    session = mpy6a.Pipe(hop.address).new("user-create")
    session.append(b"its session holds it")
    del session
    hop.wait_for(lambda fake: bool(fake.named(Goodbye)))


def test_closing_from_another_thread_answers_those_who_wait(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their outcome is not known, and they are told so."""
    monkeypatch.setattr("mpy6a.limits.CLOSE_TIMEOUT_S", 0.01)
    heard: list[Exception] = []
    pipe = mpy6a.Pipe(hop.address)
    session = pipe.new("user-create")
    hop.pipe.ignore_batches = 99

    def work() -> None:
        try:
            session.append(b"a")
        except mpy6a.Mpy6aError as error:
            heard.append(error)

    thread = in_thread(work)
    hop.wait_for(lambda fake: len(fake.batches) == 2)
    pipe.close()
    thread.join()
    assert [type(error) for error in heard] == [mpy6a.OutcomeUnknown]
    with pytest.raises(mpy6a.SessionClosed):
        session.append(b"b")


def test_a_waiter_is_answered_once_or_left() -> None:
    """Whoever is first, the answer or the caller's end of patience, decides; the thread's lock stays usable."""
    waiter, writer = Waiter(), Writer[Waiter](1, 2, 3, 1)
    assert waiter.complete(writer)
    assert not waiter.complete(None)
    assert waiter.wait() is writer
    left = Waiter()
    with pytest.raises(mpy6a.OutcomeUnknown):
        left.wait(0.001)
    assert not left.complete(None)
    error = mpy6a.Gone("gone")
    refused = Waiter()
    assert not refused.saw(error)
    thread = in_thread(lambda: refused.complete(error))
    with pytest.raises(mpy6a.Gone):
        refused.wait(5)
    thread.join()
    assert refused.saw(error)


def test_a_close_that_heard_its_last_answer_does_not_sleep() -> None:
    """The turn that a close woke heard it: nothing else would wake the thread before the close gives up."""

    class Still(BlockingDriver):
        def _run(self) -> None:
            """The test takes the thread's place."""

    class Silent:
        def pending(self) -> bool:
            return False

        def poll(self, timeout: object) -> list[tuple[int, int]]:
            raise AssertionError(f"it slept for {timeout} ms")

    driver = Still("ipc:///nobody.sock", name="test", token=b"", timeout_ms=1_000)
    driver._close_by_ms = time.monotonic_ns() // 1_000_000 + 60_000
    driver._sleep(cast("Any", Silent()), cast("Any", Silent()))
    driver._close_by_ms = None
    with pytest.raises(AssertionError, match="it slept for None"):
        driver._sleep(cast("Any", Silent()), cast("Any", Silent()))
