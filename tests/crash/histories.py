"""What the writers of a crash test wrote down, read back from disk: the only witness of what was promised."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpy6a.messages import Ack, Batch
from mpy6a.wire import decode, unpack


@dataclass(slots=True)
class Story:
    """One batch: its bytes and what became of it. Times in monotonic ns."""

    batch: Batch
    message: bytes
    sent_ns: int
    resent_ns: list[int] = field(default_factory=list)  # to a pipe's next life, unanswered as it was
    late: int = 0  # copies sent after it was answered
    acks: list[tuple[int, Ack]] = field(default_factory=list)  # every answer, with its time

    def unanswered(self, at_ns: int) -> bool:
        """Whether it was sent at that time and no answer had been taken in."""
        return self.sent_ns < at_ns and not (self.acks and self.acks[0][0] < at_ns)


@dataclass(slots=True)
class History:
    """One writer's. `lives` are the times at which it met another pipe than before."""

    writer: bytes
    stories: dict[int, Story]
    lives: list[int]

    def in_flight(self, at_ns: int) -> int:
        """Operations sent and not answered at that time."""
        return sum(len(story.batch.ops) for story in self.stories.values() if story.unanswered(at_ns))

    def resent(self, begin_ns: int, end_ns: int) -> list[int]:
        """Numbers of the batches sent again in that time because a pipe had not answered them."""
        return [
            number
            for number, story in self.stories.items()
            if any(begin_ns < at_ns <= end_ns for at_ns in story.resent_ns)
        ]


def read(path: Path) -> History:
    """A history from its file. Its last line may be cut off: its writer was killed, and did not act on it."""
    lines = path.read_bytes().split(b"\n")[:-1]
    history = History(bytes.fromhex(json.loads(lines[0])["writer"]), {}, [])
    for line in lines[1:]:
        facts = json.loads(line)
        at_ns = int(facts["at"])
        if "sent" in facts:
            message = base64.b64decode(facts["message"])
            batch = decode(unpack(message)[0])
            assert isinstance(batch, Batch)
            assert batch.number == facts["sent"]
            history.stories[batch.number] = Story(batch, message, at_ns)
        elif "resent" in facts:
            history.stories[facts["resent"]].resent_ns.append(at_ns)
        elif "late" in facts:
            history.stories[facts["late"]].late += 1
        elif "life" in facts:
            history.lives.append(at_ns)
        elif "busy" not in facts:
            _answer(history, at_ns, facts["ack"], base64.b64decode(facts["message"]))
    return history


def _answer(history: History, at_ns: int, number: int, payload: bytes) -> None:
    for message in unpack(payload):
        value = decode(message)
        if isinstance(value, Ack) and value.number == number:
            history.stories[number].acks.append((at_ns, value))


def operations(histories: Sequence[History]) -> int:
    """Operations acknowledged, in all."""
    return sum(len(s.batch.ops) for history in histories for s in history.stories.values() if s.acks)
