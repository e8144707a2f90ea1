"""What an http handler says, and what becomes of the session: every row of the tables in
sidecar/outcomes.py."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
from dataclasses import replace
from email.utils import formatdate

import pytest
from aiohttp import web

from mpy6a import limits
from mpy6a.errors import Code
from mpy6a.messages import SessionEpoch, Stop
from mpy6a.model import BY_POLICY, Verb
from sidecar import outcomes
from sidecar.http import HttpHandlers
from tests.unit.sidecar.bench import answers, bench, run, said
from tests.unit.sidecar.desk import HTTP


async def silent(request: web.Request) -> web.Response:
    """Reads the push and answers never, until its connection is closed."""
    await request.read()
    await asyncio.Event().wait()
    raise AssertionError


DATE = formatdate(1_700_000_000 + 30, usegmt=True)  # 30 s after the bench's wall clock

STATUS_ROWS = [
    (204, b"", None, Verb.DELETE, 0, ""),
    (422, b"strange records", None, Verb.PARK, 0, "strange records"),
    (422, b"x" * 600, None, Verb.PARK, 0, "x" * 512),
    (429, b"", {"Retry-After": "7"}, Verb.RELEASE, 7_000, "the handler answered 429"),
    (503, b"", None, Verb.RELEASE, BY_POLICY, "the handler answered 503"),
    (503, b"", {"Retry-After": "99999"}, Verb.RELEASE, 600_000, "the handler answered 503"),
    (503, b"", {"Retry-After": DATE}, Verb.RELEASE, 30_000, "the handler answered 503"),
    (503, b"", {"Retry-After": "soon"}, Verb.RELEASE, BY_POLICY, "the handler answered 503"),
    (200, b'{"outcome":"delete"}', None, Verb.DELETE, 0, ""),
    (200, b'{"outcome":"store","after":"30s"}', None, Verb.STORE, 30_000, ""),
    (200, b'{"outcome":"store"}', None, Verb.STORE, BY_POLICY, ""),
    (200, b'{"outcome":"store","after":30}', None, Verb.FAIL, 0, None),
    (200, b'{"outcome":"release"}', None, Verb.RELEASE, BY_POLICY, ""),
    (200, b'{"outcome":"park","reason":"look"}', None, Verb.PARK, 0, "look"),
    (200, b'{"outcome":"fail","message":"boom"}', None, Verb.FAIL, 0, "boom"),
    (200, b"<html>It works!</html>", None, Verb.FAIL, 0, None),
    (200, b"", None, Verb.FAIL, 0, None),
    (200, b'{"outcome":"deleted"}', None, Verb.FAIL, 0, None),
    (200, b'{"outcome":["delete"]}', None, Verb.FAIL, 0, None),
    (200, b'"delete"', None, Verb.FAIL, 0, None),
    (200, b"[" * 60_000, None, Verb.FAIL, 0, None),
    (200, b"x" * (limits.ANSWER_BYTES_MAX + 1), None, Verb.FAIL, 0, None),
    (201, b'{"outcome":"delete"}', None, Verb.FAIL, 0, None),
    (302, b"", {"Location": "http://127.0.0.1:1/elsewhere"}, Verb.FAIL, 0, None),
    (400, b"", None, Verb.FAIL, 0, None),
    (404, b"", None, Verb.FAIL, 0, None),
    (500, b"trace", None, Verb.FAIL, 0, "the handler answered 500: trace"),
]


def test_every_row_of_the_answers() -> None:
    """One push, one request, one outcome; what is not listed fails, and is charged."""

    async def test() -> None:
        async with bench(answers(204)) as made:
            for index, (status, body, headers, verb, argument, message) in enumerate(STATUS_ROWS):
                made.handle = answers(status, body, headers)
                ops = await made.run(b"x", index=index + 10)
                assert [(op[0], op[1]) for op in said(ops)] == [(verb, argument)], (status, body[:40])
                if message is not None:
                    assert said(ops)[0][2] == message, (status, body[:40])

    run(test)


def test_the_rows_cover_the_tables() -> None:
    """No status and no outcome of the tables is without its row here."""
    assert set(outcomes.HTTP_STATUS) <= {row[0] for row in STATUS_ROWS}
    named = {match[1].decode() for row in STATUS_ROWS if (match := re.match(rb'\{"outcome":"(\w+)"', row[1]))}
    assert set(outcomes.HTTP_OUTCOMES) <= named
    assert set(outcomes.HTTP_FAILURES) == {"refused", "dns", "timeout", "broken", "too_large", "records"}


def test_what_is_sent_to_the_handler() -> None:
    """Headers and body as documented; the fence as text, since JSON's numbers end at 2^53."""
    seen: list[tuple[str, dict[str, str], bytes]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.method, dict(request.headers), await request.read()))
        return web.Response(status=204)

    async def test() -> None:
        trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        async with bench(handle) as made:
            made.push(b"\x00one", b"", trace=trace)
            await made.over()

        ((method, headers, body),) = seen
        assert method == "POST"
        assert headers["Content-Type"] == "application/json"
        assert headers["Mpy6a-Session"] == "1.5.10"
        assert headers["Mpy6a-Fence"] == str(5 << 32 | 2)
        assert headers["Mpy6a-Kind"] == "http-kind"
        assert headers["traceparent"] == trace.decode()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/s/[0-9a-f]{32}", headers["Mpy6a-Callback"])
        assert json.loads(body) == {
            "session": "1.5.10",
            "epoch": 2,
            "fence": str(5 << 32 | 2),
            "kind": "http-kind",
            "repeats": 3,
            "cancel": False,
            "records": [{"base64": base64.b64encode(b"\x00one").decode()}, {"base64": ""}],
        }

    run(test)


def test_a_trace_that_is_no_traceparent_is_not_sent() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=422 if "traceparent" in request.headers else 204)

    async def test() -> None:
        async with bench(handle) as made:
            made.push(b"x", trace=b"00\r\nEvil: 1")
            await made.over()
            assert said(made.ops) == [(Verb.DELETE, 0, "")]

    run(test)


@pytest.mark.parametrize(
    ("form", "record", "shown"),
    [
        ("text", 'Grüße "x"'.encode(), 'Grüße "x"'),
        ("json", b'{"n": 12345678901234567890123}', {"n": 12345678901234567890123}),
    ],
)
def test_records_in_other_forms(form: str, record: bytes, shown: object) -> None:
    async def handle(request: web.Request) -> web.Response:
        assert json.loads(await request.read())["records"] == [{form: shown}]
        return web.Response(status=204)

    async def test() -> None:
        async with bench(handle, form) as made:  # type: ignore[arg-type]  # one of the literals
            assert said(await made.run(record)) == [(Verb.DELETE, 0, "")]

    run(test)


@pytest.mark.parametrize(
    ("form", "record"), [("text", b"\xff"), ("json", b"{"), ("json", b"NaN"), ("json", b"[" * 9_999)]
)
def test_a_record_that_is_not_valid_in_its_form_parks_the_session(form: str, record: bytes) -> None:
    """Without a call: no repeat would make it valid."""

    async def test() -> None:
        async with bench(answers(204), form) as made:  # type: ignore[arg-type]  # one of the literals
            ((verb, _, message),) = said(await made.run(record))
            assert verb is Verb.PARK
            assert "`records:`" in message

    run(test)


def test_no_answer_in_time_fails_and_kills_the_token() -> None:
    async def test() -> None:
        urls: list[str] = []

        async def handle(request: web.Request) -> web.Response:
            urls.append(request.headers["Mpy6a-Callback"])
            return await silent(request)

        async with bench(handle, timeout_ms=50) as made:
            ((verb, _, message),) = said(await made.run(b"x"))
            assert verb is Verb.FAIL
            assert "timeout" in message
            status, text, _ = await made.call("POST", urls[0] + "/append", b"late")
            assert status == 409
            assert text.startswith("GONE")

    run(test)


def test_a_connection_that_breaks_fails() -> None:
    """The handler may have worked: charged, and never called again by the sidecar."""
    calls = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def test() -> None:
        async with bench(handle) as made:
            assert [one[0] for one in said(await made.run(b"x"))] == [Verb.FAIL]

    run(test)
    assert calls == 1


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_refused_connection_is_released_and_credit_waits_for_the_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not charged. Once something listens there, the kind has credit again."""
    monkeypatch.setattr(limits, "HEALTH_MS", 10)

    async def test() -> None:
        port = free_port()
        async with bench(answers(204), url=f"http://127.0.0.1:{port}/") as made:
            assert made.credit == 3
            ((verb, argument, _),) = said(await made.run(b"x"))
            assert (verb, argument) == (Verb.RELEASE, BY_POLICY)
            await made.until(lambda: made.credit == 0)
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
            await made.until(lambda: made.credit == 3)
            server.close()

    run(test)


def test_with_health_configured_credit_waits_for_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEALTH_MS", 10)

    async def test() -> None:
        healthy = asyncio.Event()

        async def handle(request: web.Request) -> web.Response:
            if request.path == "/health":
                return web.Response(status=200 if healthy.is_set() else 500)
            return web.Response(status=204)

        async with bench(handle, health="/health") as made:
            await made.until(lambda: made.credit == 0)
            healthy.set()
            await made.until(lambda: made.credit == 3)
            assert said(await made.run(b"x")) == [(Verb.DELETE, 0, "")]

    run(test)


def test_an_unknown_host_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_name(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def test() -> None:
        async with bench(answers(204), url="http://name.invalid/") as made:
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_name)
            ((verb, argument, message),) = said(await made.run(b"x"))
            assert (verb, argument) == (Verb.RELEASE, BY_POLICY)
            assert "host" in message

    run(test)


def test_a_stop_closes_the_connection_and_kills_the_token() -> None:
    """The epoch is another's: what the handler says no longer counts, nothing is written."""

    async def test() -> None:
        begun, closed = asyncio.Event(), asyncio.Event()
        urls: list[str] = []

        async def handle(request: web.Request) -> web.Response:
            urls.append(request.headers["Mpy6a-Callback"])
            begun.set()
            try:
                return await silent(request)
            finally:
                closed.set()

        async with bench(handle) as made:
            key = made.push(b"x")
            await begun.wait()
            made.desk.dial(Stop(1, 5, Code.FENCED, (SessionEpoch(5, key.session.index, 2),)))
            made.wake()
            await closed.wait()
            assert (await made.call("POST", urls[0] + "/append", b"late"))[0] == 409
            await made.over()
            assert made.ops == []

    run(test)


def test_a_reload_changes_the_url_for_what_is_pushed_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has begun ends by its own answer; a probe of the old address is over, that of a new one decides."""
    monkeypatch.setattr(limits, "HEALTH_MS", 1)

    async def test() -> None:
        asked, began, go, healthy = list[str](), asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handle(request: web.Request) -> web.Response:
            if request.path == "/health":
                return web.Response(status=200 if healthy.is_set() else 500)
            asked.append(request.path)
            if request.path == "/finish":
                began.set()
                await go.wait()
            return web.Response(status=204)

        async with bench(handle) as made:
            assert isinstance(made.handlers, HttpHandlers)
            before = made.handlers._handlers[HTTP]
            made.push(b"x", index=10)
            await began.wait()
            made.handlers.serve({HTTP: replace(before, url=before.url.replace("finish", "other"))})
            made.push(b"y", index=11)
            await made.until(lambda: len(made.ops) == 1)
            assert asked == ["/finish", "/other"]
            go.set()
            await made.over()
            assert [op.index for op in made.ops] == [11, 10]
            checked = replace(before, health=before.url.replace("finish", "health"))
            made.handlers.serve({HTTP: checked})
            await made.until(lambda: made.credit == 0)
            made.handlers.serve({HTTP: before})  # nobody asks any more
            made.wake()
            await made.until(lambda: made.credit > 0)
            assert made.handlers._probes == {}
            made.handlers.serve({})  # its kind is gone
            made.handlers.serve({HTTP: checked})
            await made.until(lambda: made.credit == 0)
            healthy.set()
            await made.until(lambda: made.credit > 0)

    run(test)
