"""schemas/PROTOCOL.md says what the program does: its bytes, codes, messages, verbs and limits are the program's."""

from __future__ import annotations

import re

import pytest

from mpy6a import limits, resources, wire
from mpy6a.errors import Code
from mpy6a.messages import MessageType
from mpy6a.model import Extra, Op, Verb
from tests.wire_samples import INCARNATION, MESSAGES

TEXT = resources.schema("PROTOCOL.md").read_text()


def _section(title: str) -> str:
    (found,) = re.findall(rf"^## \d+\. {title}$(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    return str(found)


def _rows(text: str) -> list[list[str]]:
    """The cells of the tables of a text, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("code", "type", "limit", "verb", "---")]


def _hex(name: str) -> bytes:
    """The bytes of an example: eight a line, then what they are."""
    (block,) = re.findall(rf"^```hex {name}$(.*?)^```$", TEXT, re.M | re.S)
    return bytes.fromhex("".join(line[:23] for line in block.strip().splitlines()))


def test_the_example_of_a_message() -> None:
    """The worked example of a header is what `encode` writes and `unpack` reads."""
    packed = wire.encode(MESSAGES["pong"], incarnation=INCARNATION, pipe=3, principal=1001)
    assert _hex("pong") == packed
    assert wire.decode(wire.unpack(_hex("pong"))[0]) == MESSAGES["pong"]


def test_the_example_of_a_batch() -> None:
    """The worked example of row form is what the library writes and the pipe reads as row form."""
    ops = [Op(Verb.NEW, 1, argument=7, record=b"abc"), Op(Verb.TOUCH, 9, 3, 1, 4)]
    assert _hex("batch") == wire.encode_batch_body(1, 1, 0, ops, [Extra(0, key="k")])
    assert not wire.decode_rows(_hex("batch")).reencoded


def test_every_code_is_told() -> None:
    """The table of codes has every code by number and name, and no other."""
    told = [(int(row[0]), row[1]) for row in _rows(_section("Codes"))]
    assert told == [(code.value, code.name) for code in Code]
    assert all(len(row) == 4 and all(row) for row in _rows(_section("Codes")))


def test_every_message_is_told() -> None:
    """The table of messages has every type by number and by its name in the schema."""
    told = [(int(row[0]), row[1].lower()) for row in _rows(_section("Messages"))]
    assert told == [(kind.value, kind.name.replace("_", "").lower()) for kind in MessageType]


def test_every_verb_is_told() -> None:
    """The table of verbs has every verb with its tag."""
    told = [(row[0], int(row[1])) for row in _rows(_section("Batches"))]
    assert told == [(verb.name.lower(), verb.value) for verb in Verb]


@pytest.mark.parametrize("row", _rows(_section("Limits")), ids=lambda row: str(row[2]))
def test_limits_are_the_programs(row: list[str]) -> None:
    """Every limit of the table has the value that is in force."""
    assert getattr(limits, row[2]) == int(row[1])


def test_the_header_is_where_the_text_says() -> None:
    """Offsets of the header's table: the fields are read there."""
    packed = wire.encode(MESSAGES["pong"], incarnation=INCARNATION, pipe=3, principal=1001)
    offsets = [int(row[0]) for row in _rows(_section("Envelopes and packed messages")) if row[0].isdigit()]
    assert offsets == [0, 8, 24, 28, 32, 34, 35, 36, 38]
    assert packed[8:24] == INCARNATION
    assert int.from_bytes(packed[24:28], "little") == len(packed) - 40
    assert int.from_bytes(packed[28:32], "little") == 1001
    assert packed[32:34] == b"\x6d\x36"
    assert (packed[34], packed[35], packed[36]) == (1, MessageType.PONG, 3)
