"""Reload: the files are read beside the loop, checked whole, logged as one Policy frame, and only then carried out.

    ask -> (another process reads) -> parts, a slice a turn -> refused: nothing changes
                                                            -> POLICY frame, durable -> dials, disk, welcomes -> answer

Never holds up the loop: what grows with the number of kinds or sidecars is done in slices. The driver calls `turn` when
nothing is in flight, logs at once what it says is to be logged, and then calls `logged`.
"""

from __future__ import annotations

import base64
import logging
from collections import deque
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any, Final, Protocol

from mpy6a import limits
from mpy6a.changes import Counts, Setup, changes, refusals
from mpy6a.disk import DiskSettings
from mpy6a.errors import BadRequest, Busy
from mpy6a.messages import MessageType
from mpy6a.pipe import Pipe
from mpy6a.policy import KindPolicy
from mpy6a.push import Pusher
from mpy6a.readings import Bad, Kinds, Part, Whole
from mpy6a.wire import pack

logger = logging.getLogger(__name__)

Answer = Callable[[dict[str, Any]], None]
PAGE_BYTES: Final = 384 * limits.KIB  # of the policy's body in one answer of `show`; 4/3 of it as base64


class Reader(Protocol):
    """Whoever reads the files, beside the loop."""

    def ask(self, pipe: int, term: int, log_ms: int, hop: bytes) -> None:
        """Begin to read."""
        ...

    def receive(self) -> Part | None:
        """The next part, if it is there. `Bad` or `Whole` is the last one."""
        ...

    def close(self) -> None:
        """End the reading, whether it is done or not."""
        ...


class World(Protocol):
    """What a reload changes beside the core."""

    def dial(self, address: str) -> None:
        """Connect to a sidecar, unless that connection stands."""
        ...

    def hang_up(self, address: str) -> None:
        """Let go of that connection."""
        ...

    def watch_disk(self, settings: DiskSettings) -> None:
        """These are the thresholds from now on."""
        ...


class Reloading:
    """One pipe's. `setup` is what it runs with."""

    def __init__(self, pipe: Pipe, pusher: Pusher, setup: Setup, reader: Reader | None, world: World) -> None:
        self.setup = setup
        self._pipe = pipe
        self._pusher = pusher
        self._reader = reader
        self._world = world
        self._asked: list[Answer] = []  # for the next reading
        self._taken = 0  # reloads since the start
        self._waiting: list[Answer] = []  # for the one under way
        self._wanted = False
        self._until_ms: int | None = None  # a reading is under way
        self._look_ms = 0
        self._kinds: dict[int, KindPolicy] = {}
        self._changed: list[int] = []  # of those, kinds that are not what they were
        self._whole: Whole | None = None
        self._after: Setup | None = None
        self._logged: tuple[Setup, Setup, Whole] | None = None  # from, to
        self._steps: deque[Callable[[], None]] = deque()  # what is to be carried out still
        self._leaving: dict[bytes, str] = {}  # incarnation -> address of a sidecar that is let go
        self._dialing: dict[str, tuple[int, bool]] = {}  # sidecar -> when to look, whether it is dialed by now
        self._left: dict[int, str] = {}  # kinds that are in no route now, and their names

    def ask(self, answer: Answer | None = None) -> None:
        """Read the files. `answer` gets what came of it, once it is durable. Raises BadRequest, Busy."""
        if self._reader is None:
            raise BadRequest("this pipe was started without files: there is nothing to read")
        if answer is not None:
            if len(self._asked) >= limits.RELOADS_MAX:
                raise Busy("many operators wait for a reload: try again")
            self._asked.append(answer)
        self._wanted = True

    def deadline(self, now_ms: int) -> int | None:
        """When `turn` has to be called next, whatever comes in before."""
        if self._steps or self._whole is not None or (self._wanted and self._until_ms is None):
            return now_ms
        when = [when_ms for when_ms, _ in self._dialing.values()]
        if self._until_ms is not None or self._leaving:
            when.append(self._look_ms)
        return max(now_ms, min(when)) if when else None

    def turn(self, now_ms: int) -> bool:
        """One step. True: the pipe has something to log, at once."""
        for _ in range(min(limits.RELOAD_STEPS, len(self._steps))):
            self._steps.popleft()()
        if self._leaving and now_ms >= self._look_ms:
            self._let_go(now_ms)
            self._look_ms = now_ms + limits.RELOAD_POLL_MS
        self._dial(now_ms)
        if self._steps:
            return False  # what was taken is carried out before anything else is
        if self._until_ms is None:
            if self._wanted:
                self._begin(now_ms)
            return False
        if self._after is not None:
            return self._decide(self._after, now_ms)
        if self._whole is not None:
            self._after = self._whole.setup(self._kinds)
            return False
        self._read(now_ms)
        return False

    def close(self) -> None:
        """End a reading that is under way."""
        if self._reader is not None:
            self._reader.close()

    # ------------------------------------------------------------------ reading

    def _begin(self, now_ms: int) -> None:
        assert self._reader is not None
        state = self._pipe.state
        self._wanted = False
        self._waiting, self._asked = self._asked, []
        self._until_ms = now_ms + limits.RELOAD_MS
        self._kinds, self._changed = {}, []
        self._reader.ask(state.pipe, state.term, self._pipe.log_ms(now_ms), self._pipe.incarnation)

    def _read(self, now_ms: int) -> None:
        assert self._reader is not None
        assert self._until_ms is not None
        match self._reader.receive():
            case Kinds(kinds):
                before = self.setup.policy.kinds
                for kind in kinds:
                    self._kinds[kind.id] = kind
                    if before.get(kind.id, kind) != kind:
                        self._changed.append(kind.id)
                self._look_ms = now_ms
            case Whole() as whole:
                self._whole = whole
            case Bad(problems):
                for problem in problems[:20]:
                    facts = {"found": problem["text"]}
                    logger.error("reload: the files are bad, nothing has changed", extra={"facts": facts})
                self._end({"taken": False, "problems": list(problems)})
            case None:
                self._look_ms = now_ms + limits.RELOAD_POLL_MS
                if now_ms >= self._until_ms:
                    text = f"reading the files took more than {limits.RELOAD_MS // 1000} s: look at their disk"
                    logger.error("reload: nothing has changed", extra={"facts": {"found": text}})
                    self._end({"taken": False, "problems": [{"text": text}]})

    def _end(self, body: dict[str, Any]) -> None:
        assert self._reader is not None
        self._reader.close()
        self._until_ms = self._whole = self._after = None
        self._kinds, self._changed = {}, []
        answers, self._waiting = self._waiting, []
        for answer in answers:
            answer(body)

    # ------------------------------------------------------------------ deciding

    def _decide(self, after: Setup, now_ms: int) -> bool:
        """Refuse it, or have it logged: nothing is in flight, so what is live now is what the frame will meet."""
        assert self._whole is not None
        before, pipe = self.setup, self._pipe
        found = refusals(before, after, self._counts, self._left, self._whole.places, self._changed)
        refused = list(islice(found, limits.CHANGES_SHOWN))
        if pipe.disk_reserve or pipe.disk_spent:
            refused.append("the pipe's disk is full, and the log is down to its reserve: make room first")
        if refused:
            for why in refused[:20]:
                logger.error("reload: refused, nothing has changed", extra={"facts": {"why": why}})
            self._end({"taken": False, "refused": refused})
            return False
        self._logged = before, after, self._whole
        old, new = before.policy, after.policy
        if not self._changed and old.kinds.keys() == new.kinds.keys() and self._whole.policy == _fields(before):
            if before.sidecars == after.sidecars and before.values == after.values:
                self._logged = None
                self._tell(before, after)
            else:
                self.logged(now_ms)
            return False
        pipe.reload(new, self._whole.policy_body, now_ms, lambda applied: None)
        return True

    def logged(self, now_ms: int) -> None:
        """What `turn` had logged is durable: carry it out, and answer in the next turn."""
        assert self._logged is not None
        before, after, whole = self._logged
        self._logged = None
        self.setup = after
        self._taken += 1
        self._pipe.policy_body = whole.policy_body
        self._steps.append(lambda: self._tell(before, after))
        self._remember(before, after)
        self._carry_out(before, after, now_ms)
        for incarnation, sender in list(self._pipe.greeted.items()):
            self._steps.append(_welcome(self._pipe, sender, incarnation, whole.welcome_body))

    def _tell(self, before: Setup, after: Setup) -> None:
        """What has changed, in words."""
        said = changes(before, after, self._counts, self._changed)
        told = list(islice(said, limits.CHANGES_SHOWN))
        more = next(said, None) is not None
        logger.info("reloaded" if told else "reloaded: no change", extra={"facts": {"changes": "; ".join(told[:20])}})
        self._end({"taken": True, "changes": told, "more": more})

    def _carry_out(self, before: Setup, after: Setup, now_ms: int) -> None:
        leaving = self._pusher.reroute(after.sidecars)
        for name, address in before.sidecars.items():
            if after.sidecars.get(name) == address:
                continue
            if name in leaving:
                self._leaving[leaving[name]] = address
            else:
                self._steps.append(_step(self._world.hang_up, address))
        for name, address in after.sidecars.items():
            if before.sidecars.get(name) != address:
                self._dialing[name] = now_ms + limits.REDIAL_REST_MS, False
        for name in self._dialing.keys() - after.sidecars.keys():
            del self._dialing[name]
        if after.disk != before.disk:
            self._world.watch_disk(after.disk)

    def _dial(self, now_ms: int) -> None:
        """Dial what is new, until it has said hello. ZeroMQ drops, without a word, a connection to an identity whose
        last one is not quite gone: hence the rest before each, and another one where no hello comes."""
        for name, (when_ms, dialed) in list(self._dialing.items()):
            if len(self._steps) >= limits.RELOAD_STEPS:
                return
            if now_ms < when_ms:
                continue
            address = self.setup.sidecars[name]
            if not dialed:
                self._steps.append(_step(self._world.dial, address))
                self._dialing[name] = now_ms + limits.REDIAL_MS, True
            elif self._pusher.connected([name]):
                del self._dialing[name]
            else:
                self._steps.append(_step(self._world.hang_up, address))
                self._dialing[name] = now_ms + limits.REDIAL_REST_MS, False

    def _let_go(self, now_ms: int) -> None:
        """Sidecars that hold nothing any more. One that came back meanwhile needs a new connection, for a new dial."""
        for incarnation, address in list(self._leaving.items()):
            if self._pusher.let_go(incarnation):
                del self._leaving[incarnation]
                self._steps.append(_step(self._world.hang_up, address))
                back = [name for name, there in self.setup.sidecars.items() if there == address]
                self._dialing.update((name, (now_ms + limits.REDIAL_REST_MS, False)) for name in back)

    def _remember(self, before: Setup, after: Setup) -> None:
        """The names of kinds that leave: what comes back under such a number has to be the same kind."""
        old, new = before.policy.kinds, after.policy.kinds
        for number in new.keys() & self._left.keys():
            del self._left[number]
        self._left.update((number, old[number].name) for number in old.keys() - new.keys())
        while len(self._left) > limits.KINDS_MAX:
            del self._left[next(iter(self._left))]

    def _counts(self, number: int) -> Counts:
        counts = self._pipe.state.sessions.counts
        return Counts(*(counts.get(number << 3 | state, 0) for state in (1, 2, 3, 4)))

    # ------------------------------------------------------------------ for whoever asks first

    def show(self, start: int) -> dict[str, Any]:
        """What the pipe runs with, as much as a comparison needs: with the first page all but the policy's bytes."""
        body, setup = self._pipe.policy_body, self.setup
        page = base64.b64encode(body[start : start + PAGE_BYTES]).decode()
        version = [self._pipe.state.term, self._taken]
        found: dict[str, Any] = {"bytes": len(body), "from": start, "base64": page, "version": version}
        if not start:
            numbers = {count >> 3 for count, live in self._pipe.state.sessions.counts.items() if live}
            found["live"] = {str(number): self._counts(number) for number in sorted(numbers)[: limits.KINDS_MAX]}
            found["left"] = {str(number): name for number, name in self._left.items()}
            found |= {"sidecars": dict(setup.sidecars), "values": dict(setup.values), "fixed": dict(setup.fixed)}
        return found


def _fields(setup: Setup) -> dict[str, Any]:
    """The policy's fields beside its kinds, as a reading tells them."""
    return dict(Whole.of(setup, {}, b"", b"").policy)


def _step(call: Callable[[str], None], address: str) -> Callable[[], None]:
    return lambda: call(address)


def _welcome(pipe: Pipe, sender: Hashable, incarnation: bytes, body: bytes) -> Callable[[], None]:
    """Tell one that had said hello."""

    def tell() -> None:
        if incarnation in pipe.greeted:
            said = pack(MessageType.WELCOME, body, incarnation=incarnation, pipe=pipe.state.pipe)
            pipe.outbox.append((sender, said))

    return tell
