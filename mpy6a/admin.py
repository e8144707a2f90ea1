"""The operators' verbs, answered on the admin door only: what is going on, and a word on single sessions.

Arguments and answers are JSON objects (schemas/PROTOCOL.md, "Operators"). Verbs that change something are logged
with who and why before they are answered.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from mpy6a import export, limits
from mpy6a.entries import Admin, SessionKey
from mpy6a.errors import BadRequest, Code, DiskLow, Mpy6aError, NoSuchSession, Refused, Unavailable
from mpy6a.fingerprints import error_class, fingerprint
from mpy6a.messages import AdminReply, AdminRequest, Message
from mpy6a.model import AdminVerb, Attempt, AttemptOutcome, SessionId, SessionState
from mpy6a.pipe import Pipe
from mpy6a.push import Pusher
from mpy6a.reasons import REASONS
from mpy6a.session import Delivery, Session
from mpy6a.sessions import Applied
from mpy6a.version import __version__
from mpy6a.why import why, why_kind

Facts = Callable[[], dict[str, Any]]
Verb = Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], None]  # (arguments, what answers, now or later)
LIST_MAX = 1_000  # sessions in one page of a list; `after` takes the next
SCAN_MAX = 20_000  # sessions looked at for one page: about 5 ms of the loop
ERROR_SHOWN = 120  # characters of a message in a list
WHY_MAX = 1_000  # the same where each one's reason or last error has to be found
_NO_DELIVERY = Delivery()
_KIND_WORDS = {"pause": AdminVerb.PAUSE, "resume": AdminVerb.RESUME}
_WORDS = {
    "kick": AdminVerb.KICK,
    "delete": AdminVerb.DELETE,
    "park": AdminVerb.PARK,
    "cancel": AdminVerb.CANCEL,
    "pause": AdminVerb.PAUSE,
    "resume": AdminVerb.RESUME,
}


class AdminDoor:
    """Answers requests. `facts` adds what only the driver knows (log, process) to `status`; `verbs` are its own."""

    def __init__(
        self,
        pipe: Pipe,
        pusher: Pusher,
        read: Callable[[int, int], bytes],
        facts: Facts,
        verbs: Mapping[str, Verb] | None = None,
    ) -> None:
        self._pipe = pipe
        self._pusher = pusher
        self._read = read
        self._facts = facts
        self._verbs = verbs or {}

    def receive(self, sender: Hashable, message: Message, request: AdminRequest, now_ms: int) -> None:
        """Answer one request, at once or once its entry is committed. Never raises for what an operator sent."""
        try:
            arguments = json.loads(request.arguments)
            if not isinstance(arguments, dict):
                raise BadRequest("arguments have to be a JSON object")
            body = self._answer(sender, message, request, arguments, now_ms)
        except RecursionError:
            self._refuse(sender, message, request, BadRequest("arguments are nested too deeply"))
        except (ValueError, Mpy6aError) as problem:
            refused = problem if isinstance(problem, Refused | Unavailable) else BadRequest(str(problem))
            self._refuse(sender, message, request, refused)
        else:
            if body is not None:
                text = json.dumps(body)
                if len(text) > limits.ADMIN_BYTES_MAX:
                    sentence = f"the answer takes {len(text)} bytes; at most {limits.ADMIN_BYTES_MAX}: use `limit`"
                    self._refuse(sender, message, request, BadRequest(sentence))
                else:
                    self._reply(sender, message, AdminReply(request.number, Code.OK, "", text))

    def _refuse(self, sender: Hashable, message: Message, request: AdminRequest, problem: Mpy6aError) -> None:
        sentence = str(problem)[: limits.TEXT_BYTES_MAX]
        code: Code | None = getattr(problem, "code", None)
        self._reply(sender, message, AdminReply(request.number, code or Code.BAD_REQUEST, sentence))

    def _ok(self, sender: Hashable, message: Message, request: AdminRequest, body: dict[str, Any]) -> None:
        self._reply(sender, message, AdminReply(request.number, Code.OK, "", json.dumps(body)))

    def _reply(self, sender: Hashable, message: Message, reply: AdminReply) -> None:
        self._pipe.reply(sender, message.incarnation, reply)

    def _answer(
        self, sender: Hashable, message: Message, request: AdminRequest, arguments: dict[str, Any], now_ms: int
    ) -> dict[str, Any] | None:
        match request.verb:
            case "status":
                return self.status(now_ms)
            case "sessions.list":
                return self._list(arguments, now_ms)
            case "sessions.show":
                session = self._session(arguments)
                return self._describe(session, now_ms) | self._details(session, bool(arguments.get("records")))
            case "sessions.export":
                return self._export(self._session(arguments), arguments, now_ms)
            case "kinds.list":
                return {"kinds": self._kinds(self._pipe.log_ms(now_ms))}
            case verb if verb.startswith("kinds.") and verb.removeprefix("kinds.") in _KIND_WORDS:
                self._say_kind(sender, message, request, arguments, now_ms)
                return None
            case "clock.accept":
                self._check_log()
                who = str(arguments.get("who", ""))[:128]
                body = {"clock": "accepted"}
                self._pipe.accept_clock(who, now_ms, lambda _: self._ok(sender, message, request, body))
                return None
            case verb if verb in self._verbs:
                self._verbs[verb](arguments, lambda body: self._ok(sender, message, request, body))
                return None
            case verb if verb.removeprefix("sessions.") in _WORDS:
                self._say(sender, message, request, arguments, now_ms)
                return None
        raise BadRequest(
            f"no verb {request.verb[:40]!r}; there are: status, clock.accept, sessions.list, sessions.show, "
            "sessions.export, kinds.list, kinds.pause, kinds.resume, "
            + ", ".join((*self._verbs, *(f"sessions.{word}" for word in _WORDS)))
        )

    # ------------------------------------------------------------------ what is

    def status(self, now_ms: int) -> dict[str, Any]:
        """The pipe at a glance."""
        pipe, state = self._pipe, self._pipe.state
        oldest_ms = pipe.due.oldest_ms()
        log_ms = pipe.log_ms(now_ms)
        return {
            "pipe": state.pipe,
            "release": __version__,
            "term": state.term,
            "next_index": state.next_index,
            "log_ms": log_ms,
            "durable": pipe.durable,
            "clock_held": pipe.due.clock_held,
            "disk_level": pipe.disk_level,
            "live": state.sessions.live(),
            "kinds": self._kinds(log_ms),
            "oldest_due_ms": max(0, log_ms - oldest_ms) if oldest_ms is not None else None,
            "sidecars": self._pusher.status(),
            "dropped": dict(sorted(pipe.dropped.items())),
            **self._facts(),
        }

    def _kinds(self, log_ms: int) -> list[dict[str, Any]]:
        """Every kind that is routed, live or paused: how many sessions are in which state, for how long the oldest that
        is due has waited and for what, and who paused it why."""
        state = self._pipe.state
        live: dict[int, dict[str, int]] = {}
        for count, sessions in state.sessions.counts.items():
            if sessions:
                live.setdefault(count >> 3, {})[SessionState(count & 7).name.lower()] = sessions
        names = {number: kind.name for number, kind in state.policy.kinds.items()}
        found = []
        for number in sorted({*names, *live, *state.paused_kinds}):
            paused: dict[str, Any] | None = None
            if self._pipe.is_kind_paused(number, log_ms):
                until_ms, who, reason = state.paused_kinds[number]
                paused = {"who": who, "reason": reason, "for_ms": until_ms - log_ms if until_ms else None}
            states = {one.name.lower(): live.get(number, {}).get(one.name.lower(), 0) for one in SessionState}
            ready, oldest_ms = self._pipe.due.ready(number), self._pipe.due.oldest_of(number)
            cause, detail = why_kind(self._pipe, self._pusher, number, log_ms) if ready else ("", "")
            waits: dict[str, Any] = {"oldest_due_ms": None if oldest_ms is None else max(0, log_ms - oldest_ms)}
            waits |= {"why": cause, "detail": detail}
            if number in state.policy.kinds:
                waits |= self._pipe.pacing.facts(state.policy.kinds[number])
            found.append(
                {"kind": number, "name": names.get(number, ""), **states, "ready": ready, **waits, "paused": paused}
            )
        return found

    def _list(self, arguments: dict[str, Any], now_ms: int) -> dict[str, Any]:
        after = _integer(arguments, "after", 0)
        most = min(_integer(arguments, "limit", 100), LIST_MAX)
        state_name, kind = str(arguments.get("state", "")), arguments.get("kind")
        if state_name and state_name.upper() not in SessionState.__members__:
            raise BadRequest(f"state {state_name[:20]!r}: allowed are open, stored, repeating, parked")
        number = self._kind(kind) if kind is not None else None
        wanted = str(arguments.get("why", "")).upper()
        failed = bool(arguments.get("failed"))
        if wanted and wanted not in REASONS:
            raise BadRequest(f"why {wanted[:20]!r}: allowed are {', '.join(REASONS)}")
        if not most:
            raise BadRequest("limit: found 0, allowed is 1 or more")
        found: list[dict[str, Any]] = []
        room, scan = limits.ADMIN_BYTES_MAX // 2, WHY_MAX if wanted or failed else SCAN_MAX
        log_ms = self._pipe.log_ms(now_ms)
        for scanned, session in enumerate(self._pipe.state.sessions.after(after)):
            if len(found) == most or scanned == scan or room < 0:
                break  # the loop has others to serve: `after` goes on from here
            after = session.index
            if (
                (not state_name or SessionState(session.state).name == state_name.upper())
                and (number is None or session.kind == number)
                and (not failed or _last_error(session.delivery or _NO_DELIVERY)["fingerprint"])
                and (not wanted or why(self._pipe, self._pusher, session, log_ms)[0] == wanted)
            ):
                found.append(self._describe(session, now_ms))
                room -= len(json.dumps(found[-1]))
        else:
            return {"sessions": found, "more": False, "after": after, "live": self._pipe.state.sessions.live()}
        return {"sessions": found, "more": True, "after": after, "live": self._pipe.state.sessions.live()}

    def _kind(self, kind: Any) -> int:
        policy = self._pipe.state.policy
        named = policy.kind_named(str(kind))
        if named is not None:
            return named.id
        if str(kind).isascii() and str(kind).isdigit() and len(str(kind)) <= 10:
            return int(kind)
        near = ", ".join(policy.nearest(str(kind))) or ", ".join(k.name for k in list(policy.kinds.values())[:8])
        raise BadRequest(f"no kind {str(kind)[:64]!r}; did you mean {near}?")

    def _session(self, arguments: dict[str, Any]) -> Session:
        text = str(arguments.get("id", ""))
        try:
            wanted = SessionId.parse(text)
        except ValueError as problem:
            raise BadRequest(str(problem)) from None
        session = self._pipe.state.session(wanted.term, wanted.index)
        if wanted.pipe != self._pipe.state.pipe or session is None:
            here = self._pipe.state.pipe
            raise NoSuchSession(f"no live session {text}: it is finished, or never was, at pipe {here}")
        return session

    def _describe(self, session: Session, now_ms: int) -> dict[str, Any]:
        pipe = self._pipe
        delivery, kind = session.delivery or _NO_DELIVERY, pipe.state.policy.kinds.get(session.kind)
        log_ms = pipe.log_ms(now_ms)
        reason, detail = why(pipe, self._pusher, session, log_ms)
        return {
            "id": str(SessionId(pipe.state.pipe, session.term, session.index)),
            "kind": kind.name if kind else str(session.kind),
            "state": SessionState(session.state).name.lower(),
            "epoch": session.epoch,
            "records": len(session.records),
            "bytes": session.size,
            "repeats": delivery.repeats,
            "charges": delivery.charges,
            "age_ms": max(0, log_ms - session.created_ms),
            "due_in_ms": session.due_ms - log_ms if session.due_ms else None,
            "why": reason,
            "detail": detail,
            **_last_error(delivery),
        }

    def _details(self, session: Session, records: bool) -> dict[str, Any]:
        delivery, extra = session.delivery or _NO_DELIVERY, session.extra
        details: dict[str, Any] = {
            "fence": str(session.fence),
            "seq": session.seq,
            "change": session.change,
            "created_ms": session.created_ms,
            "cancel": delivery.cancel,
            "barren": delivery.barren,
            "releases": delivery.releases,
            "key": extra.key if extra else "",
            "record_bytes": [reference & 0xFFFFFFFF for reference in session.records],
            "attempts": [
                attempt._asdict() | {"outcome": AttemptOutcome(attempt.outcome).name.lower()} | _error(attempt)
                for attempt in delivery.attempts
            ],
        }
        if records:
            room, shown = limits.ADMIN_BYTES_MAX // 2, []
            for record in self._pipe.state.sessions.records(session, self._read):
                room -= len(record) * 4 // 3 + 8
                if room < 0:
                    break
                shown.append(base64.b64encode(record).decode())
            details["records_base64"] = shown
        return details

    def _export(self, session: Session, arguments: dict[str, Any], now_ms: int) -> dict[str, Any]:
        """All of a session but its records' bytes; with `from`, a page of those."""
        state = self._pipe.state
        if "from" not in arguments:
            reason = why(self._pipe, self._pusher, session, self._pipe.log_ms(now_ms))
            return export.document(state, session, "pipe", reason)
        start = _integer(arguments, "from", 0)
        records = export.page(state.sessions, session, start, self._read)
        return {"change": session.change, "from": start, "base64": base64.b64encode(records).decode()}

    # ------------------------------------------------------------------ words

    def _check_log(self) -> None:
        """Raises DiskLow when nothing can be logged."""
        if self._pipe.disk_spent:
            raise DiskLow("the disk is full and the log's reserve is used up: make room first, then say it again")

    def _say(
        self, sender: Hashable, message: Message, request: AdminRequest, arguments: dict[str, Any], now_ms: int
    ) -> None:
        self._check_log()
        session = self._session(arguments)
        word = request.verb.removeprefix("sessions.")
        state_name = SessionState(session.state).name
        who, reason = str(arguments.get("who", ""))[:128], str(arguments.get("reason", ""))[:256]
        until_ms, for_ms = 0, _duration(arguments)
        if for_ms:
            if word != "pause":
                raise BadRequest(f"for_ms: found {for_ms}, allowed only with pause")
            until_ms = self._pipe.log_ms(now_ms) + for_ms
        key = SessionKey(session.term, session.index)
        admin = Admin(_WORDS[word], who=who, reason=reason, sessions=(key,), until_ms=until_ms)

        def done(applied: Applied) -> None:
            code = applied.results[0].code if applied.results else Code.OK
            if code == Code.NO_SUCH_SESSION:
                self._refuse(sender, message, request, NoSuchSession(f"{arguments['id']} was finished meanwhile"))
            elif code:
                sentence = f"{word} does not fit a session that is {state_name}"
                self._refuse(sender, message, request, BadRequest(sentence))
            else:
                self._ok(sender, message, request, {"id": arguments["id"], word: True})

        self._pipe.say(admin, now_ms, done)


    def _say_kind(
        self, sender: Hashable, message: Message, request: AdminRequest, arguments: dict[str, Any], now_ms: int
    ) -> None:
        self._check_log()
        number = self._kind(arguments.get("kind", ""))
        word = request.verb.removeprefix("kinds.")
        who, reason = str(arguments.get("who", ""))[:128], str(arguments.get("reason", ""))[:256]
        log_ms, for_ms = self._pipe.log_ms(now_ms), _duration(arguments)
        was_paused = self._pipe.is_kind_paused(number, log_ms)

        def done(_: Applied) -> None:
            self._pusher.look_again()  # what waited for this is due already: no timer will say so
            self._ok(sender, message, request, {"kind": number, word: True, "was_paused": was_paused})

        until_ms = log_ms + for_ms if for_ms else 0
        admin = Admin(_KIND_WORDS[word], who=who, reason=reason, kind=number, until_ms=until_ms)
        self._pipe.say(admin, now_ms, done)


def _error(attempt: Attempt) -> dict[str, str]:
    """What an attempt has in common with others that failed like it."""
    if attempt.outcome in (AttemptOutcome.DECIDED, AttemptOutcome.CANCELLED):
        return {"error": "", "fingerprint": ""}
    return {"error": error_class(attempt.message), "fingerprint": fingerprint(attempt.message)}


def _last_error(delivery: Delivery) -> dict[str, str]:
    """The same of a session: of its last attempt, if that failed, with its message."""
    if not delivery.attempts:
        return {"error": "", "fingerprint": "", "message": ""}
    last = delivery.attempts[-1]
    found = _error(last)
    return found | {"message": last.message[:ERROR_SHOWN] if found["fingerprint"] else ""}


def _duration(arguments: dict[str, Any]) -> int:
    """How long a pause is to last, in ms; 0: until somebody ends it."""
    for_ms = _integer(arguments, "for_ms", 0)
    if for_ms > limits.DURATION_MS_MAX:
        raise BadRequest(f"for_ms: found {for_ms}, allowed is up to {limits.DURATION_MS_MAX}, or 0: until resumed")
    return for_ms


def _integer(arguments: dict[str, Any], name: str, default: int) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRequest(f"{name}: found {str(value)[:20]!r}, allowed is a number that is not negative")
    return value
