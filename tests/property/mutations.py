"""Faults to plant in the state, one line of its text each: the state machine's test has to find every one."""

from __future__ import annotations

from typing import Final

from .planted import Mutation

STATE: Final = "mpy6a.state"
GIVEN: Final = "mpy6a.given"
SESSIONS: Final = "mpy6a.sessions"
SESSION: Final = "mpy6a.session"
REQUESTS: Final = "mpy6a.requests"

MUTATIONS: Final = (
    # The four questions.
    Mutation("a grown or split group passes for the last one", STATE, " and last[3] == count", ""),
    Mutation("another client's group passes for the last one", STATE, " and last[0] == origin", ""),
    Mutation("a second writer is let in", STATE, "(writer and writer != origin)", "False"),
    Mutation("an older epoch still writes", STATE, "epoch < session.epoch or session.state not", "session.state not"),
    Mutation("a late copy is applied again", STATE, "if first != session.seq + 1:", "if first > session.seq + 1:"),
    Mutation("a gap goes unnoticed", STATE, "if first != session.seq + 1:", "if first <= session.seq:"),
    Mutation("work goes on after a refusal", STATE, "decided[key] = _Decided([])", "pass"),
    Mutation(
        "a refused group is remembered one too long",
        STATE,
        "(origin, epoch, first, count, seq - first, code)",
        "(origin, epoch, first, count, seq - first + 1, code)",
    ),
    Mutation(
        "work goes on after a Store",
        STATE,
        "seq - first + 1, FENCED)\n                    decided[key] = _Decided([FENCED])",
        "seq - first + 1, FENCED)",
    ),
    # The same questions on the short way, for the writer's next operation.
    Mutation("the short way lets a second writer in", STATE, "or session.writer != origin  #", "#"),
    Mutation("the short way lets an older epoch write", STATE, "or session.epoch != epoch\n", "\n"),
    Mutation("the short way takes an index for an id", STATE, "or session.term != term\n", "\n"),
    # Sessions that are gone, ids that never were.
    Mutation("the trace names the wrong epoch", SESSIONS, "(session.epoch + 1, log_ms,", "(session.epoch, log_ms,"),
    Mutation("the second epoch leaves no trace", SESSIONS, "if session.epoch > 1:", "if session.epoch > 2:"),
    Mutation("a trace is kept for ever", SESSIONS, "FINISHED_TRACE_MS <= log_ms:", "FINISHED_TRACE_MS <= 0:"),
    Mutation("an old batch is told OK", STATE, "first_sent_ms >= FINISHED_TRACE_MS", "first_sent_ms < 0"),
    Mutation("a lost id is taken for gone", GIVEN, "or index < terms[place][1]:", "or index < 0:"),
    # New.
    Mutation("a New below the mark is made again", STATE, "if request < client.mark:", "if request < 0:"),
    Mutation("an old New is made", STATE, "first_sent_ms >= OUTCOME_KEPT_MS", "first_sent_ms > OUTCOME_KEPT_MS"),
    Mutation("outcomes are forgotten at once", REQUESTS, "client.last_ms + OUTCOME_KEPT_MS", "client.last_ms"),
    Mutation("a mark goes back", REQUESTS, "if mark > client.mark:", "if mark != client.mark:"),
    Mutation(
        "a key outlives all",
        SESSIONS,
        "key), None)\n            if extra.order_key:\n                self.orders.remove",
        "key), None) if 0 else 0\n            if extra.order_key:\n                self.orders.remove",
    ),
    # Epochs.
    Mutation("the fence carries the id's term", SESSIONS, "fence(self.term, session", "fence(session.term, session"),
    Mutation("an epoch inherits the seq", SESSIONS, "        session.seq = 0\n", ""),
    Mutation(
        "an epoch inherits its growth",
        SESSIONS,
        "        delivery.grew = False\n        self._held",
        "        self._held",
    ),
    Mutation("a late proposal is applied", STATE, " or session.change != proposal.change", ""),
    Mutation("anybody's death stores a session", STATE, " or session.writer != proposal.target", ""),
    Mutation("anybody may end an epoch", STATE, "if delivery.target != frame.origin:", "if not frame.origin:"),
    # Memory over the checkpoint's file.
    Mutation("a row counts beside its session", SESSIONS, "        self.filed.discard(index)\n", ""),
    Mutation("a filed session is not found", SESSIONS, "if session is None and index in self.filed:", "if False:"),
    Mutation("a filed key is free", SESSIONS, "self._load(index) if index in self.filed else None", "None"),
    Mutation(
        "a row that does not count has its key",
        SESSIONS,
        "in self.filed else None\n        return",
        "else None\n        return",
    ),
    Mutation("a filed trace is forgotten", SESSIONS, "trace = self.source.trace(term, index)", "trace = None"),
    Mutation("a held session is loaded, its holder not", SESSIONS, "        self.filed.add(session.index)\n", ""),
    # Figures.
    Mutation("releases are counted for ever", STATE, "delivery.releases = 0", "delivery.releases += 0"),
    Mutation("a park by the limit comes late", SESSIONS, "if reached >= limit:", "if reached > limit:"),
    Mutation("a kick forgives nothing", STATE, "delivery.charges = delivery.barren = 0", "delivery.barren = 0"),
    Mutation("jitter is drawn short", SESSION, "* (most + 1)) >> 64", "* most) >> 64"),
    Mutation(
        "a Replace adds", STATE, "session.positions = _reference(length, position)\n",
        "session.positions += _reference(length, position)\n",
    ),
)
