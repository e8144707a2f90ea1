"""docs/HANDLERS.md, "How a run ends, whatever the handler": each cell is tried, or names the test that shows it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import mpy6a
from mpy6a import testing
from mpy6a.model import Verb
from mpy6a.testing import Kind
from sidecar import outcomes

ROOT: Final = Path(__file__).parents[2]
SIDECAR: Final = "tests/unit/sidecar/"
ENDS: Final = {  # verb -> what becomes of the session, and whether it is charged
    Verb.DELETE: ("gone", "no"), Verb.STORE: ("STORED", "no"), Verb.RELEASE: ("STORED", "no"),
    Verb.PARK: ("PARKED", "no"), Verb.FAIL: ("STORED", "yes"),
}  # fmt: skip


def _answer(status: int, body: bytes = b"") -> Callable[[], Verb]:
    return lambda: outcomes.http_answer(status, body, None, 0).verb


def _exit(status: int) -> Callable[[], Verb]:
    return lambda: outcomes.exec_exit(status, b"").verb


def _callback(name: str) -> Callable[[], Verb]:
    return lambda: outcomes.CALLBACKS[name]


CALLBACKS: Final = {f"callback `{name}`": _callback(name) for name in ("delete", "store", "release", "park")}
HTTP: Final[dict[str, Callable[[], Verb] | str]] = {
    **{str(status): _answer(status) for status in outcomes.HTTP_STATUS},
    **{f"200 `{said}`": _answer(200, b'{"outcome": "%s"}' % said.encode()) for said in outcomes.HTTP_OUTCOMES},
    **CALLBACKS,
    "any other status": _answer(500),
    "200 with anything else": _answer(200, b"<html>"),
    "over 64 KiB": lambda: outcomes.http_failure("too_large").verb,
    "the connection breaks": lambda: outcomes.http_failure("broken").verb,
    "a record not as `records:` says": lambda: outcomes.http_failure("records").verb,
    "refused connection": lambda: outcomes.http_failure("refused").verb,
    "unknown host": lambda: outcomes.http_failure("dns").verb,
}
EXEC: Final[dict[str, Callable[[], Verb] | str]] = {
    **{f"exit {status}": _exit(status) for status in outcomes.EXEC_STATUS},
    **CALLBACKS,
    "any other exit": _exit(1),
    "a signal": _exit(-9),
    "a record not as `records:` says": lambda: outcomes.exec_failure("records").verb,
    "it cannot be started": lambda: outcomes.exec_failure("not_started").verb,
    "the starter has ended": lambda: outcomes.exec_failure("lost").verb,
}
# What is shown elsewhere: (row, kind of handler) -> the test.
_HTTP: Final = f"{SIDECAR}test_http_handlers.py::"
_EXEC: Final = f"{SIDECAR}test_exec_handlers.py::"
_TOLD: Final = "tests/e2e/test_stopped_handlers.py::test_every_kind_of_handler_is_told"
_NOBODY: Final = "tests/e2e/test_reasons.py::test_every_session_is_worked_on_or_waits_for_a_reason_that_has_a_name"
_STOPS: Final = f"{SIDECAR}test_agent_push.py::test_after_the_grace_the_rest_is_stopped_and_released"
SHOWN: Final = {
    ("`timeout:` is over", "http"): f"{_HTTP}test_no_answer_in_time_fails_and_kills_the_token",
    ("`timeout:` is over", "exec"): f"{_EXEC}test_no_end_in_time_fails_and_ends_the_whole_group",
    **{("its epoch is over (fenced)", kind): _TOLD for kind in ("attached", "http", "exec")},
    ("nobody is there", "attached"): _NOBODY,
    **{("the sidecar stops", kind): _STOPS for kind in ("attached", "http", "exec")},
}
DIES: Final = f"{SIDECAR}test_agent_push.py::test_sessions_of_a_service_that_died_fail"


def _rows() -> list[tuple[str, dict[str, list[str]], str, str]]:
    """Of the table: its first cell, what each kind of handler does, what becomes of the session, charged."""
    text = (ROOT / "docs" / "HANDLERS.md").read_text(encoding="utf-8")
    table = text.split("## How a run ends, whatever the handler\n\n")[1].split("\n\n")[0]
    found = []
    for line in table.splitlines()[2:]:
        row, attached, http, run, session, charged = (cell.strip() for cell in line.strip("|").split("|"))
        cells = {"attached": attached, "http": http, "exec": run}
        found.append((row, {kind: cell.split("; ") for kind, cell in cells.items()}, session, charged))
    return found


def _cells(kind: str) -> Iterator[tuple[str, str, str, str]]:
    for row, cells, session, charged in _rows():
        for cell in cells[kind]:
            yield row, cell, session, charged


@pytest.mark.parametrize(("kind", "known"), [("http", HTTP), ("exec", EXEC)])
def test_what_an_http_handler_or_a_program_says_ends_its_run_as_the_table_has_it(
    kind: str, known: dict[str, Callable[[], Verb]]
) -> None:
    """Every cell by the code that sidecars run, and nothing that the code knows is left out."""
    tried: set[str] = set()
    for row, cell, session, charged in _cells(kind):
        if (row, kind) in SHOWN:
            continue
        assert ENDS[known[cell]()] == (session, charged), f"{row}: {cell}"
        tried.add(cell)
    assert tried == known.keys()


@pytest.mark.parametrize("test", sorted({*SHOWN.values(), DIES}))
def test_what_is_shown_elsewhere_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)


async def _raises(session: Any) -> None:
    raise RuntimeError("B is away")


async def _hangs(session: Any) -> None:
    await asyncio.Event().wait()


ATTACHED: Final[dict[str, Callable[[Any], Any]]] = {
    "`delete()`": lambda session: session.delete(),
    "`store(after)`": lambda session: session.store(3_600),
    "`release(after)`": lambda session: session.release(500),
    "`park(reason)`": lambda session: session.park("look at it"),
    "an exception": _raises,
    "it returns undecided": lambda session: asyncio.sleep(0),
    "task cancelled, `.cancelled` set": _hangs,
}


async def _run(says: Callable[[Any], Any]) -> tuple[str, str]:
    """One run of an attached handler that ends so: what became of the session, and whether it was charged."""

    @mpy6a.handler("k")
    async def handle(repeat: Any) -> None:
        await says(repeat.session)

    kind = Kind(delay=0, backoff=(1_000, 1_000))
    async with testing.pipe(handle, kinds={"k": kind}) as pipe:
        session = await pipe.new("k", b"first")
        await session.store(0)
        await pipe.advance(31)
        live = pipe._there.pipe.state.sessions.all()
        if not live:
            return "gone", "no"
        [found] = live
        assert found.delivery is not None
        assert found.delivery.repeats == 1, "it was tried once"
        return _named(found.state), "yes" if found.delivery.charges else "no"


def _named(state: int) -> str:
    """As the table has it."""
    return {2: "STORED", 4: "PARKED"}[state]


def test_what_a_python_handler_does_ends_its_run_as_the_table_has_it() -> None:
    """By the library and the real core, with a clock that goes as the test says."""
    tried: set[str] = set()
    for row, cell, session, charged in _cells("attached"):
        if (row, "attached") in SHOWN or cell == "its process dies":
            continue
        assert asyncio.run(_run(ATTACHED[cell])) == (session, charged), f"{row}: {cell}"
        tried.add(cell)
    assert tried == ATTACHED.keys()
