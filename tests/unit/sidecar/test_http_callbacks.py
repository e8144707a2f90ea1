"""What an http handler says during its run: durable when answered, once for each number, refused by
status."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from mpy6a import limits
from mpy6a.config import HttpAddress
from mpy6a.errors import CannotStart, Code
from mpy6a.model import BY_POLICY, Op, Verb
from sidecar.callbacks import CallbackServer
from tests.unit.sidecar.bench import Bench, answers, bench, run, said


async def with_callbacks(talk: Callable[[Bench, str], Awaitable[None]], status: int = 500, **more: int) -> list[Op]:
    """A run whose handler talks to its callback URL, then answers; what reached the pipe."""
    talked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    made: Bench

    async def handle(request: web.Request) -> web.Response:
        try:
            await talk(made, request.headers["Mpy6a-Callback"])
            talked.set_result(None)
        except Exception as error:
            talked.set_exception(error)
            raise
        return web.Response(status=status)

    async with bench(handle, **more) as made:  # type: ignore[arg-type]  # timeout_ms alone
        ops = await made.run(b"first")
        await talked
    return ops


def test_callbacks_write_and_the_answer_is_ignored_once_one_has_decided() -> None:
    async def talk(made: Bench, callback: str) -> None:
        assert await made.call("POST", callback + "/append", b"second") == (204, "", "")
        assert (await made.call("POST", callback + "/touch"))[0] == 204
        status, text, _ = await made.call("GET", callback)
        assert status == 200
        records = [base64.b64decode(one["base64"]) for one in json.loads(text)["records"]]
        assert records == [b"first", b"second"]
        assert (await made.call("POST", callback + "/replace", b"only"))[0] == 204
        assert len(json.loads((await made.call("GET", callback))[1])["records"]) == 1
        assert (await made.call("POST", callback + "/delete"))[0] == 204
        assert (await made.call("POST", callback + "/append", b"late"))[0] == 409

    async def test() -> None:
        ops = await with_callbacks(talk)
        assert said(ops) == [
            (Verb.APPEND, 0, "second"),
            (Verb.TOUCH, 0, ""),
            (Verb.REPLACE, 0, "only"),
            (Verb.DELETE, 0, ""),
        ]
        assert [op.seq for op in ops] == [1, 2, 3, 4]
        assert {op.epoch for op in ops} == {2}

    run(test)


@pytest.mark.parametrize(
    ("action", "op"),
    [
        ("/store?after=30s", (Verb.STORE, 30_000, "")),
        ("/store", (Verb.STORE, BY_POLICY, "")),
        ("/release", (Verb.RELEASE, BY_POLICY, "")),
        ("/park?reason=odd+one", (Verb.PARK, 0, "odd one")),
    ],
)
def test_the_other_decisions_by_callback(action: str, op: tuple[Verb, int, str]) -> None:
    async def talk(made: Bench, callback: str) -> None:
        assert (await made.call("POST", callback + action))[0] == 204
        assert (await made.call("POST", callback + "/delete"))[0] == 409

    async def test() -> None:
        assert said(await with_callbacks(talk)) == [op]

    run(test)


def test_a_204_of_a_callback_means_durable() -> None:
    """It comes with the pipe's answer, not before."""

    async def talk(made: Bench, callback: str) -> None:
        made.deaf = True
        calling = asyncio.create_task(made.call("POST", callback + "/append", b"x"))
        await made.until(lambda: bool(made.ops))
        assert not calling.done()
        made.deaf = False
        made.answer_all()
        assert (await calling)[0] == 204

    async def test() -> None:
        assert said(await with_callbacks(talk, 204)) == [(Verb.APPEND, 0, "x"), (Verb.DELETE, 0, "")]

    run(test)


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (Code.FENCED, 409, "FENCED"),
        (Code.GONE, 409, "GONE"),
        (Code.TOO_LARGE, 413, "TOO_LARGE"),
        (Code.DISK_LOW, 503, "DISK_LOW"),
    ],
)
def test_what_the_pipe_refuses_is_told_by_status(code: Code, status: int, name: str) -> None:
    async def talk(made: Bench, callback: str) -> None:
        made.verdicts[Verb.APPEND] = code
        got, text, retry = await made.call("POST", callback + "/append", b"x")
        assert (got, text.split(":")[0]) == (status, name)
        assert bool(retry) == (status == 503)

    async def test() -> None:
        await with_callbacks(talk)

    run(test)


def test_a_body_over_the_limit_of_a_record_is_413() -> None:
    async def talk(made: Bench, callback: str) -> None:
        status, _, _ = await made.call("POST", callback + "/append", bytes(limits.RECORD_BYTES_MAX + 1))
        assert status == 413

    async def test() -> None:
        assert [one[0] for one in said(await with_callbacks(talk))] == [Verb.FAIL]

    run(test)


def test_a_numbered_call_is_done_once() -> None:
    """The same number answers as the first time, also after the decision; another call under it is an
    error."""

    async def talk(made: Bench, callback: str) -> None:
        for _ in range(3):
            assert (await made.call("POST", callback + "/append", b"x", 1))[0] == 204
        assert (await made.call("POST", callback + "/append", b"y", 1))[0] == 400
        both = await asyncio.gather(*(made.call("POST", callback + "/delete", number=2) for _ in range(2)))
        assert [one[0] for one in both] == [204, 204]
        assert (await made.call("POST", callback + "/delete", number=2))[0] == 204
        assert (await made.call("POST", callback + "/delete", number=3))[0] == 409

    async def test() -> None:
        assert said(await with_callbacks(talk)) == [(Verb.APPEND, 0, "x"), (Verb.DELETE, 0, "")]

    run(test)


def test_a_numbered_call_that_was_refused_for_now_can_be_made_again() -> None:
    async def talk(made: Bench, callback: str) -> None:
        made.verdicts[Verb.APPEND] = Code.DISK_LOW
        assert (await made.call("POST", callback + "/append", b"x", 1))[0] == 503
        made.verdicts.clear()
        assert (await made.call("POST", callback + "/append", b"x", 1))[0] == 204

    async def test() -> None:
        assert len(await with_callbacks(talk)) == 3

    run(test)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/nonsense", 404),
        ("GET", "/append", 405),
        ("POST", "", 405),
        ("POST", "/store?after=soon", 400),
        ("POST", "/store?after=30", 400),
    ],
)
def test_wrong_callbacks_are_refused_and_decide_nothing(method: str, path: str, status: int) -> None:
    async def talk(made: Bench, callback: str) -> None:
        assert (await made.call(method, callback + path))[0] == status
        wrong = callback[:-32] + "0" * 32
        assert (await made.call("POST", wrong + "/delete"))[0] == 409
        assert (await made.call("POST", callback[:-1] + "/delete"))[0] == 404

    async def test() -> None:
        assert said(await with_callbacks(talk, 204)) == [(Verb.DELETE, 0, "")]

    run(test)


def test_a_decision_that_was_refused_decides_nothing() -> None:
    """Then the answer counts."""

    async def talk(made: Bench, callback: str) -> None:
        made.verdicts[Verb.STORE] = Code.DISK_LOW
        assert (await made.call("POST", callback + "/store?after=1s"))[0] == 503

    async def test() -> None:
        assert [one[0] for one in said(await with_callbacks(talk, 204))] == [Verb.STORE, Verb.DELETE]

    run(test)


def test_a_taken_callback_port_is_one_sentence() -> None:
    async def test() -> None:
        async with bench(answers(204)) as made:
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                server = CallbackServer(lambda _: None)
                with pytest.raises(CannotStart, match="callback"):
                    await server.open(HttpAddress("127.0.0.1", taken.getsockname()[1]))
                await server.close()
            assert made.credit == 3

    run(test)
