"""The files are read by another process: what it says is what they say, and no file or end of it holds up the pipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from mpy6a import wire
from mpy6a.config import load_pipe
from mpy6a.config.reader import ConfigReader
from mpy6a.config.reading import parts
from mpy6a.config.setup import load_setup, setup_of
from mpy6a.entries import decode_policy
from mpy6a.messages import MessageType, Welcome
from mpy6a.readings import Bad, Kinds, Known, Part, Whole

PIPE: Final = """\
pipe: 3
data: ./data
admin: ipc:///tmp/a.sock
sidecars: {users: tcp://127.0.0.1:7401}
lease: 20s
routes: {orphans: hold, kinds: {%s}}
"""
WAIT_S: Final = 60.0


def written(directory: Path, kinds: int = 130) -> Path:
    lines = [f"kind-{n}: {{id: {n}, sidecars: [users], handler: {{attached: true}}}}" for n in range(1, kinds + 1)]
    path = directory / "pipe.yaml"
    path.write_text(PIPE % ", ".join(lines))
    return path


def known(path: Path) -> Known:
    return Known(str(path), 3, 7, 1_000, b"P" * 16)


def heard(reader: ConfigReader) -> list[Part]:
    """All parts of a reading."""
    found: list[Part] = []
    give_up_s = time.monotonic() + WAIT_S
    while not found or isinstance(found[-1], Kinds):
        part = reader.receive()
        if part is None:
            assert time.monotonic() < give_up_s
            time.sleep(0.002)
        else:
            found.append(part)
    assert reader.receive() is None
    return found


def test_the_parts_make_up_what_the_files_say(tmp_path: Path) -> None:
    """The frame's body and the welcome have the same kinds; each key has its place."""
    path = written(tmp_path)
    *some, whole = parts(known(path))
    assert isinstance(whole, Whole)
    kinds = {kind.id: kind for part in some if isinstance(part, Kinds) for kind in part.kinds}
    assert [len(part.kinds) for part in some if isinstance(part, Kinds)] == [64, 64, 2]
    setup = whole.setup(kinds)
    assert setup == load_setup(path)[0] == setup_of(load_pipe(path))
    assert decode_policy(whole.policy_body) == setup.policy
    [message] = wire.unpack(
        wire.pack(MessageType.WELCOME, whole.welcome_body, incarnation=b"A" * 16, pipe=3)
    )
    welcome = wire.decode(message)
    assert isinstance(welcome, Welcome)
    assert (len(welcome.kinds), welcome.lease_ms, welcome.hop) == (130, 20_000, b"P" * 16)
    assert (welcome.pipes[0].pipe, welcome.pipes[0].term) == (3, 7)
    assert whole.places["lease"] == f"{path}:5"
    assert whole.places["data"] == f"{path}:2"


def test_bad_files_are_problems_with_their_places(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("20s", "20"))
    [bad] = parts(known(path))
    assert isinstance(bad, Bad)
    [problem] = bad.problems
    assert (problem["file"], problem["line"], problem["key"]) == (str(path), 5, "lease")
    assert str(problem["text"]).startswith(f"{path}:5: lease: found 20")


def test_another_process_says_the_same(tmp_path: Path) -> None:
    path = written(tmp_path)
    reader = ConfigReader(str(path))
    try:
        for _ in range(2):
            reader.ask(3, 7, 1_000, b"P" * 16)
            assert heard(reader) == list(parts(known(path)))
    finally:
        reader.close(wait=True)


def test_a_reading_is_given_up_at_any_moment(tmp_path: Path) -> None:
    """Its process ends; the next one is not mixed up with it."""
    reader = ConfigReader(str(written(tmp_path)))
    try:
        reader.ask(3, 7, 1_000, b"P" * 16)
        reader.close()
        assert reader.receive() is None
        reader.ask(3, 7, 1_000, b"P" * 16)
        reading = reader._reading
        assert reading is not None
        reader.ask(3, 7, 1_000, b"P" * 16)
        reading.join()
        assert reading.status is None or reading.status == -9
        assert isinstance(heard(reader)[-1], Whole)
    finally:
        reader.close(wait=True)


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    """A signal, or no room: nothing has changed, and the pipe says what it was."""
    reader = ConfigReader(str(written(tmp_path)))
    try:
        reader.ask(3, 7, 1_000, b"P" * 16)
        reading = reader._reading
        assert reading is not None
        reading.give_up()
        reading.join()
        reading.said.clear()
        reading.status = -9
        [bad] = heard(reader)
        assert isinstance(bad, Bad)
        assert "status -9" in str(bad.problems[0]["text"])
    finally:
        reader.close(wait=True)
