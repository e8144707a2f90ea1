"""How an async session's block is left: by a decision, without one, by an error, with a refusal nobody saw."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

import mpy6a
from mpy6a.errors import Code
from mpy6a.model import BY_POLICY
from tests.fakes.hop import Hop
from tests.unit.client.running import only, run


def test_leaving_undecided_stores_and_warns(hop: Hop) -> None:
    """A clean exit without a decision stores by the kind's delay, and names the place once."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.warns(mpy6a.UndecidedSession, match="left without delete"):
                async with pipe.new("user-create"):
                    pass
        assert only(hop.pipe).store_after_ms == BY_POLICY

    run(main())


def test_the_warning_comes_once_per_call_site(hop: Hop) -> None:
    """A loop over one place does not fill the log."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                for _ in range(3):
                    async with pipe.new("user-create"):
                        pass
            assert [(each.category, each.filename) for each in caught] == [(mpy6a.UndecidedSession, __file__)]

    run(main())


def test_leaving_by_an_error_stores_and_does_not_mask_it(hop: Hop) -> None:
    """The error comes out as it was, without a warning, and the session is stored."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- the block is what is tested
                async with pipe.new("user-create") as session:
                    session.append(b"x")
                    raise ZeroDivisionError
        assert only(hop.pipe).store_after_ms == BY_POLICY
        assert only(hop.pipe).records == [b"x"]

    run(main())


def test_leaving_by_an_error_waits_a_second_at_most(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that does not answer does not hold the error up."""
    monkeypatch.setattr("mpy6a.limits.LEAVE_TIMEOUT_S", 0.01)
    monkeypatch.setattr("mpy6a.limits.CLOSE_TIMEOUT_S", 0.01)

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- the block is what is tested
                async with pipe.new("user-create"):
                    hop.pipe.ignore_batches = 99
                    raise ZeroDivisionError

    run(main())


def test_a_decision_that_was_called_is_waited_for(hop: Hop) -> None:
    """Leaving the block after an un-awaited delete() neither stores nor warns, and the session is finished."""

    async def main() -> None:
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            async with pipe.new("user-create") as session:
                session.delete()
            assert only(hop.pipe).state == "GONE"
            with pytest.raises(mpy6a.SessionClosed):
                session.append(b"x")

    run(main())


def test_a_refusal_nobody_awaited_surfaces_at_the_next_operation(hop: Hop) -> None:
    """Once, as AfterRefusal with the refusal as its cause; then the session can be decided."""

    async def main() -> None:
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

    run(main())


def test_a_refusal_that_was_awaited_does_not_surface_again(hop: Hop) -> None:
    async def main() -> None:
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        async with mpy6a.AsyncPipe(hop.address) as pipe, pipe.new("user-create") as session:
            with pytest.raises(mpy6a.DiskLow):
                await session.append(b"no")
            await session.delete()

    run(main())


def test_a_refusal_nobody_awaited_surfaces_at_leaving(hop: Hop) -> None:
    """The session is stored all the same, and nobody has to guess why its handler runs."""

    async def main() -> None:
        hop.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
        async with mpy6a.AsyncPipe(hop.address) as pipe:
            with pytest.raises(mpy6a.DiskLow):  # noqa: PT012 -- the block is what is tested
                async with pipe.new("user-create") as session:
                    session.append(b"no")
                    session.delete()
        assert only(hop.pipe).state == "STORED"

    run(main())


def test_a_refusal_behind_which_the_leaving_store_stands(hop: Hop) -> None:
    """An un-awaited refused operation right before the end: the session is stored, and the refusal comes out."""

    async def main() -> None:
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

    run(main())


def test_dropped_operations_behind_a_refusal_make_no_noise(hop: Hop) -> None:
    """Asyncio does not complain about AfterRefusal errors that nobody retrieved."""
    complaints: list[object] = []

    async def main() -> None:
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

    run(main())
    assert complaints == []
