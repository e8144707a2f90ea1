"""One session as a document: everything the pipe knows of it, and its records whole, a page at a time."""

from __future__ import annotations

import base64
import json

import pytest

from mpy6a import export, limits
from mpy6a.errors import Code
from mpy6a.model import AttemptOutcome, Op, SessionId, Verb
from mpy6a.session import Delivery, Session
from tests.fakes.core import World
from tests.unit.test_admin import A, Desk, repeating


class Row:
    """A checkpoint's file with one row."""

    def __init__(self, records: bytes) -> None:
        self.joined = records

    def part(self, index: int, start: int, length: int) -> bytes:
        found = self.joined[start : start + length]
        assert len(found) == length > 0, "asked for what is not in the row"
        return found


def session_of(desk: Desk, id: SessionId) -> Session:
    session = desk.world.pipe.state.session(id.term, id.index)
    assert session is not None
    return session


def test_every_slot_of_a_session_is_told() -> None:
    """What a slot is added for, a bug report will need."""
    desk = Desk()
    id = repeating(desk.world)
    told = desk.ask("sessions.export", id=str(id))
    slots = {*Session.__slots__, *Delivery.__slots__}
    # Told under another name, or meaning nothing outside the process.
    slots -= {"delivery", "extra", "index", "term", "last", "size", "positions", "timer_ms"}
    assert slots <= set(told["session"])
    assert {"id", "kind_id", "key", "order_key", "schema", "trace", "last_group", "bytes"} <= set(told["session"])
    assert (told["session"]["id"], told["session"]["state"]) == (str(id), "repeating")
    assert told["session"]["last_group"] == {
        "client": A.hex(), "epoch": 1, "first_seq": 1, "count": 1, "ok": 1, "code": 0
    }  # fmt: skip
    assert told["why"] == {"reason": "REPEATING_AT", "detail": "users"}
    assert (told["policy"]["kind"]["name"], told["policy"]["pipe"]["lease_ms"]) == ("user-create", limits.LEASE_MS)
    assert (told["as_of"]["pipe"], told["as_of"]["next_index"]) == (1, desk.world.pipe.state.next_index)
    assert [record["bytes"] for record in told["records"]] == [6]


def test_a_kind_without_a_route_has_no_policy() -> None:
    """It is exported under its number."""
    desk = Desk()
    id = desk.world.new(A)
    session = session_of(desk, id)
    session.kind = 77
    document = export.document(desk.world.pipe.state, session, "directory", None)
    assert (document["session"]["kind"], document["policy"]["kind"], document["why"]) == ("77", None, None)


def test_attempts_are_told_by_name() -> None:
    """Their outcomes are words."""
    desk = Desk()
    world = desk.world
    id = repeating(world)
    world.batch(b"S" * 16, [Op(Verb.FAIL, id.index, id.term, 2, 0, record=b"no answer")])
    [attempt] = desk.ask("sessions.export", id=str(id))["session"]["attempts"]
    assert (attempt["outcome"], attempt["message"]) == (AttemptOutcome.FAIL.name.lower(), "no answer")


@pytest.mark.parametrize("size", [1, 7, 10, 64])
def test_pages_are_the_records_joined(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of a page: records that begin or end in it, many in one, one over many, empty ones."""
    monkeypatch.setattr(limits, "EXPORT_PAGE_BYTES", size)
    desk = Desk()
    world = desk.world
    id = world.new(A, b"0123456789")
    written = [b"0123456789", b"", b"abc", bytes(range(30)), b""]
    world.batch(A, [Op(Verb.APPEND, id.index, id.term, 1, n, record=r) for n, r in enumerate(written[1:], 1)])
    session, read = session_of(desk, id), list[int]()

    def counted(position: int, length: int) -> bytes:
        read.append(length)
        return world.log.read(position, length)

    sessions = world.pipe.state.sessions
    for filed in range(len(written) + 1):  # so many of them are in the checkpoint's file
        source = Row(b"".join(written[:filed]))
        monkeypatch.setattr(sessions, "source", source if filed else None)
        positions = [reference >> 32 for reference in session.records]
        sessions.filed_below = positions[filed] if filed < len(written) else 1 << 63
        data = b""
        while len(data) < session.size:
            read.clear()
            page = export.page(sessions, session, len(data), counted)
            data += page
            assert len(page) == size or len(data) == session.size
            assert not filed or sum(read) <= size  # only what the page needs
        assert data == b"".join(written)
    monkeypatch.setattr(sessions, "source", None)
    sessions.filed_below = 0
    document = desk.ask("sessions.export", id=str(id))
    export.put_records(document, data)
    assert [base64.b64decode(record["base64"]) for record in document["records"]] == written


def test_a_page_over_the_door_tells_the_change_it_is_of() -> None:
    """Whoever joins pages sees that the session went on between two of them."""
    desk = Desk()
    id = desk.world.new(A, b"first")
    document = desk.ask("sessions.export", id=str(id))
    page = desk.ask("sessions.export", id=str(id), **{"from": 2})
    assert page == {"change": document["session"]["change"], "from": 2, "base64": base64.b64encode(b"rst").decode()}
    desk.world.batch(A, [Op(Verb.APPEND, id.index, id.term, 1, 1, record=b"more")])
    assert desk.ask("sessions.export", id=str(id), **{"from": 2})["change"] > page["change"]
    assert desk.ask("sessions.export", id=str(id), **{"from": 99})["base64"] == ""


def test_answers_fit_the_door() -> None:
    """The document of a session with as many records as there may be, and a full page."""
    desk = Desk(World())
    world = desk.world
    id = world.new(A, bytes(limits.RECORD_BYTES_MAX))
    seq = 1
    while seq < limits.SESSION_RECORDS_MAX:
        many = min(1_000, limits.SESSION_RECORDS_MAX - seq)
        ops = [Op(Verb.APPEND, id.index, id.term, 1, seq + n, record=b"x") for n in range(many)]
        world.batch(A, ops)
        seq += many
    assert len(session_of(desk, id).records) == limits.SESSION_RECORDS_MAX
    for arguments in ({"id": str(id)}, {"id": str(id), "from": 0}):
        reply = desk.reply("sessions.export", json.dumps(arguments))
        assert reply.code == Code.OK, reply.message
        assert len(reply.body) <= limits.ADMIN_BYTES_MAX


@pytest.mark.parametrize("start", [-1, 1.5, "2", None, True])
def test_a_start_that_is_no_number_is_refused(start: object) -> None:
    """By name."""
    desk = Desk()
    id = desk.world.new(A)
    reply = desk.reply("sessions.export", json.dumps({"id": str(id), "from": start}))
    assert (reply.code, "from" in reply.message) == (Code.BAD_REQUEST, True)
