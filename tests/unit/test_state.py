"""The verdicts of `apply`, each by the sentence of semantics.md that it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpy6a import limits
from mpy6a.entries import Admin, SessionKey
from mpy6a.errors import Code
from mpy6a.messages import Ack
from mpy6a.model import AdminVerb, Cause, Extra, Op, Proposal, ProposalVerb, Result, SessionId, SessionState, Verb
from mpy6a.policy import KindPolicy, policy_of
from mpy6a.session import Session
from mpy6a.sessions import Applied
from mpy6a.state import State
from tests.fakes.core import KIND, WALL_MS, World

A, B, S, T = b"A" * 16, b"B" * 16, b"S" * 16, b"T" * 16
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def codes(ack: Ack) -> dict[int, int]:
    return {result.position: result.code for result in ack.results}


def op(verb: Verb, id: SessionId, seq: int, epoch: int = 1, record: bytes | None = None, argument: int = 0) -> Op:
    return Op(verb, id.index, id.term, epoch, seq, argument, record)


def append(id: SessionId, seq: int, epoch: int = 1, record: bytes = b"x") -> Op:
    return op(Verb.APPEND, id, seq, epoch, record)


def live(world: World, id: SessionId) -> Session:
    found = world.session(id)
    assert found is not None
    return found


def say(world: World, verb: AdminVerb, id: SessionId) -> Applied:
    done: list[Applied] = []
    world.pipe.say(Admin(verb, "op", "why", (SessionKey(id.term, id.index),)), world.now_ms, done.append)
    world.work()
    return done[0]


def repeating(kind: KindPolicy = KIND, record_bytes_max: int = limits.RECORD_BYTES_MAX) -> tuple[World, SessionId]:
    """A session of A that was stored and pushed to sidecar S in epoch 2; S takes no more."""
    world = World(policy=replace(policy_of([kind]), record_bytes_max=record_bytes_max))
    world.sidecar(S, sessions=1)
    id = world.new(A, b"first")
    world.batch(A, [op(Verb.STORE, id, 1)])
    world.pass_time(10)
    assert live(world, id).state == SessionState.REPEATING
    return world, id


# ---------------------------------------------------------------------- OK


def test_ok_is_not_told() -> None:
    """The ack of a batch: first index, and per-operation results only where they are not plain OK."""
    world = World()
    ack = world.batch(A, [Op(Verb.NEW, 1, argument=1), Op(Verb.NEW, 2, argument=1)])
    assert (ack.code, ack.results) == (Code.OK, ())
    first = SessionId(1, ack.term, ack.first_index)
    ack = world.batch(A, [append(first, 1), op(Verb.REPLACE, first, 2, record=b"y"), op(Verb.TOUCH, first, 3)])
    assert ack.results == ()
    assert (live(world, first).seq, live(world, first).size, len(live(world, first).records)) == (3, 1, 1)


def test_the_index_of_a_new_is_its_frames_first_index_and_its_position_refused_or_not() -> None:
    """Indexes count every operation of a batch."""
    world = World()
    ack = world.batch(A, [Op(Verb.NEW, 1, argument=9), Op(Verb.NEW, 2, argument=1)])
    assert codes(ack) == {0: Code.UNKNOWN_KIND}
    assert world.session(SessionId(1, ack.term, ack.first_index)) is None
    assert world.session(SessionId(1, ack.term, ack.first_index + 1)) is not None


def test_a_copy_of_the_last_group_gets_the_original_verdicts_in_any_state() -> None:
    """(1) the group kept in `last`: the original verdicts, in any state, whatever code rides in the frame."""
    world, id = repeating()
    assert codes(world.batch(A, [op(Verb.STORE, id, 1)])) == {}
    say(world, AdminVerb.PARK, id)
    assert codes(world.batch(A, [op(Verb.STORE, id, 1)])) == {}
    group = [append(id, 1), op(Verb.STORE, id, 2), append(id, 3)]
    other = World()
    same = other.new(A)
    group = [append(same, 1), op(Verb.STORE, same, 2), append(same, 3)]
    first = codes(other.batch(A, group))
    assert first == {2: Code.FENCED}
    other.pipe.disk_level = 2  # a code that would ride in the frame now
    before = other.state.sessions.dump()
    assert codes(other.batch(A, group)) == first
    assert other.state.sessions.dump() == before


# ---------------------------------------------------------------------- FENCED


def test_fenced_another_incarnation_of_the_same_epoch() -> None:
    """The same epoch from another incarnation, or an older epoch -> FENCED, final."""
    world = World()
    id = world.new(A)
    [result] = world.batch(B, [append(id, 1)]).results
    assert (result.code, result.epoch) == (Code.FENCED, 1)
    assert codes(world.batch(A, [append(id, 1)])) == {}


def test_fenced_an_older_epoch_even_of_the_former_writer() -> None:
    """A session has at most one writer at a time: the epoch of a dispatch ends the one before."""
    world, id = repeating()
    [result] = world.batch(A, [append(id, 2)]).results
    assert (result.code, result.epoch) == (Code.FENCED, 2)
    assert codes(world.batch(B, [append(id, 1, 2)])) == {}
    assert codes(world.batch(A, [append(id, 2, 2)])) == {0: Code.FENCED}, "the first that writes is the writer"


def test_fenced_stored_and_parked_have_no_writer() -> None:
    """What comes behind the store in its own batch, and later from the former writer."""
    world = World()
    id = world.new(A)
    ack = world.batch(A, [op(Verb.STORE, id, 1, argument=60_000), append(id, 2), append(id, 3)])
    assert codes(ack) == {1: Code.FENCED, 2: Code.AFTER_REFUSAL}
    assert set(codes(world.batch(A, [append(id, 4)])).values()) == {Code.FENCED}
    say(world, AdminVerb.PARK, id)
    assert set(codes(world.batch(A, [append(id, 4)])).values()) == {Code.FENCED}


def test_fenced_does_not_change_the_session_nor_what_it_remembers() -> None:
    """Only (4) changes the session and `last`."""
    world = World()
    id = world.new(A)
    world.batch(A, [append(id, 1)])
    before = world.state.sessions.dump()
    for origin, one in ((B, append(id, 2)), (A, append(id, 9)), (A, append(id, 2, 7)), (B, op(Verb.FAIL, id, 0))):
        assert codes(world.batch(origin, [one]))
        assert world.state.sessions.dump() == before
    assert codes(world.batch(A, [append(id, 1)])) == {}


# ---------------------------------------------------------------------- GONE


def test_gone_after_the_delete_in_its_epoch_ok_up_to_it() -> None:
    """A group of the epoch that finished it gets OK up to and including its Delete, GONE after it."""
    world = World()
    id = world.new(A)
    group = [append(id, 1), op(Verb.DELETE, id, 2), append(id, 3)]
    assert codes(world.batch(A, group)) == {2: Code.GONE}
    assert codes(world.batch(A, group)) == {2: Code.GONE}
    assert codes(world.batch(A, [append(id, 3), append(id, 4)])) == {0: Code.GONE, 1: Code.GONE}


def test_gone_of_a_later_epoch_and_fenced_of_any_other_while_the_trace_is_kept() -> None:
    """Sessions finished in an epoch > 1 leave (id, epoch) for 24 h of log time; without a trace: GONE."""
    world, id = repeating()
    delete = [op(Verb.DELETE, id, 1, 2)]
    assert codes(world.batch(B, delete)) == {}
    assert codes(world.batch(B, delete)) == {}
    assert codes(world.batch(A, [append(id, 2, 1)])) == {0: Code.FENCED}
    assert codes(world.batch(A, [append(id, 2, 3)])) == {0: Code.FENCED}
    world.pass_time(DAY_MS + 1)
    world.new(A)
    assert codes(world.batch(B, [append(id, 1, 3)])) == {0: Code.GONE}


def test_gone_by_an_operator_fences_whoever_wrote() -> None:
    """An operator's delete leaves (id, epoch + 1): the writer is told FENCED, not OK."""
    world = World()
    id = world.new(A)
    say(world, AdminVerb.DELETE, id)
    assert codes(world.batch(A, [op(Verb.DELETE, id, 1)])) == {0: Code.FENCED}


# ---------------------------------------------------------------------- STALE_COPY, SEQ_GAP, AFTER_REFUSAL


def test_stale_copy_of_an_older_group() -> None:
    """(3) seq below the next -> STALE_COPY."""
    world = World()
    id = world.new(A)
    world.batch(A, [append(id, 1), append(id, 2)])
    world.batch(A, [append(id, 3)])
    assert codes(world.batch(A, [append(id, 1), append(id, 2)])) == {0: Code.STALE_COPY, 1: Code.STALE_COPY}
    assert len(live(world, id).records) == 3


def test_stale_copy_of_a_new_below_the_mark() -> None:
    """A New below the mark -> STALE_COPY, never a second session."""
    world = World()
    world.batch(A, [Op(Verb.NEW, 1, argument=1)], mark=1)
    world.batch(A, [Op(Verb.NEW, 5, argument=1)], mark=5)
    assert codes(world.batch(A, [Op(Verb.NEW, 1, argument=1)], mark=1)) == {0: Code.STALE_COPY}
    assert world.state.sessions.live() == 2


def test_seq_gap_is_final_and_takes_nothing() -> None:
    """(3) above -> SEQ_GAP, final (acknowledged operations are missing here)."""
    world = World()
    id = world.new(A)
    assert codes(world.batch(A, [append(id, 2), append(id, 3)])) == {0: Code.SEQ_GAP, 1: Code.SEQ_GAP}
    assert live(world, id).records == []
    assert codes(world.batch(A, [append(id, 1)])) == {}


def test_after_refusal_the_rest_of_the_group_has_taken_its_seq() -> None:
    """(4) each takes its seq, applied or refused; after a refusal the rest of the group is AFTER_REFUSAL."""
    world = World()
    id = world.new(A)
    big = append(id, 2, record=b"x" * (limits.RECORD_BYTES_MAX + 1))
    other = world.new(B)
    group = [append(id, 1), big, append(id, 3), op(Verb.DELETE, id, 4)]
    assert codes(world.batch(A, group)) == {1: Code.TOO_LARGE, 2: Code.AFTER_REFUSAL, 3: Code.AFTER_REFUSAL}
    assert codes(world.batch(A, group)) == {1: Code.TOO_LARGE, 2: Code.AFTER_REFUSAL, 3: Code.AFTER_REFUSAL}
    assert (live(world, id).seq, len(live(world, id).records)) == (4, 1)
    assert codes(world.batch(A, [append(id, 5)])) == {}
    assert live(world, other).seq == 0, "another session's group is another group"


# ---------------------------------------------------------------------- ENDED


def test_ended_the_first_ending_wins_and_a_later_operation_is_fenced() -> None:
    """The target may end its epoch whoever writes; the first applied wins, a copy is answered ENDED."""
    world, id = repeating()
    world.batch(B, [append(id, 1, 2)])
    fail = [op(Verb.FAIL, id, 0, 2, b"x")]
    assert codes(world.batch(S, fail)) == {}
    assert codes(world.batch(S, fail)) == {0: Code.ENDED}
    assert codes(world.batch(S, [op(Verb.PARK, id, 0, 2)])) == {0: Code.ENDED}
    assert codes(world.batch(B, [append(id, 2, 2)])) == {0: Code.FENCED}
    assert codes(world.batch(B, [append(id, 1, 2)])) == {}, "a copy of what was applied keeps its verdict"


def test_ended_only_the_target_may_end() -> None:
    """Another sidecar, or the writer itself, is FENCED; an epoch never dispatched is LOG_BEHIND."""
    world, id = repeating()
    for origin in (A, B, T):
        assert codes(world.batch(origin, [op(Verb.FAIL, id, 0, 2)])) == {0: Code.FENCED}
    assert codes(world.batch(S, [op(Verb.FAIL, id, 0, 3)])) == {0: Code.LOG_BEHIND}
    assert codes(world.batch(S, [op(Verb.FAIL, id, 0, 1)])) == {0: Code.ENDED}


def test_ended_a_session_that_is_finished() -> None:
    """An outcome that comes after the writer's Delete has nothing left to end."""
    world, id = repeating()
    world.batch(B, [op(Verb.DELETE, id, 1, 2)])
    assert codes(world.batch(S, [op(Verb.FAIL, id, 0, 2)])) == {0: Code.ENDED}


def test_an_ending_amid_a_group_of_the_same_batch_fences_what_comes_after_it() -> None:
    """One incarnation may write and end: what was said before the ending stands."""
    world, id = repeating()
    ack = world.batch(S, [append(id, 1, 2), op(Verb.RELEASE, id, 0, 2, argument=60_000), append(id, 2, 2)])
    assert codes(ack) == {2: Code.FENCED}
    assert (live(world, id).state, len(live(world, id).records)) == (SessionState.STORED, 2)


# ---------------------------------------------------------------------- TOO_LARGE, UNKNOWN_KIND, DENIED, DISK_LOW


def test_too_large_leaves_the_session_and_delete_and_store_still_fit() -> None:
    """The session is untouched and can still be deleted or stored."""
    policy = policy_of([KIND])
    small = type(policy)(policy.kinds, session_bytes_max=10, session_records_max=3, record_bytes_max=10)
    world = World(policy=small)
    id = world.new(A, b"12345678")
    assert codes(world.batch(A, [append(id, 1, record=b"abc")])) == {0: Code.TOO_LARGE}
    assert codes(world.batch(A, [append(id, 2, record=b""), append(id, 3, record=b"")])) == {}
    assert codes(world.batch(A, [append(id, 4, record=b"")])) == {0: Code.TOO_LARGE}
    assert (live(world, id).size, len(live(world, id).records)) == (8, 3)
    assert codes(world.batch(A, [op(Verb.REPLACE, id, 5, record=b"0123456789")])) == {}
    assert codes(world.batch(A, [op(Verb.STORE, id, 6)])) == {}


@pytest.mark.parametrize("verb", [Verb.FAIL, Verb.RELEASE, Verb.PARK])
def test_too_large_is_no_ending_however_small_records_have_to_be(verb: Verb) -> None:
    """An ending's message is no record: outcomes always fit, or a session would be left REPEATING with nobody at it."""
    world, id = repeating(record_bytes_max=5)
    assert codes(world.batch(S, [op(verb, id, 0, 2, b"a sentence")])) == {}
    assert live(world, id).state != SessionState.REPEATING


def test_too_large_a_new_makes_no_session() -> None:
    """A first record over the session's limit is refused, and its request number is used up."""
    policy = policy_of([KIND])
    world = World(policy=type(policy)(policy.kinds, session_bytes_max=4, record_bytes_max=10))
    for _ in range(2):
        assert codes(world.batch(A, [Op(Verb.NEW, 1, argument=1, record=b"12345")])) == {0: Code.TOO_LARGE}
    assert world.state.sessions.live() == 0


@pytest.mark.parametrize("code", [Code.UNKNOWN_KIND, Code.DENIED, Code.DISK_LOW])
def test_what_was_refused_before_the_log_keeps_its_verdict_when_the_world_has_changed(code: Code) -> None:
    """Every refusal is logged as a verdict, so that a late copy can never be applied after its caller was told no."""
    allowed = code != Code.DENIED
    world = World(authorise=lambda principal, kind: allowed)
    world.pipe.disk_level = 1 if code == Code.DISK_LOW else 0
    new = [Op(Verb.NEW, 1, argument=9 if code == Code.UNKNOWN_KIND else 1)]
    assert codes(world.batch(A, new)) == {0: code}
    allowed = True
    world.pipe.disk_level = 0
    assert codes(world.batch(A, new)) == {0: code}
    assert world.state.sessions.live() == 0
    again = World(log=world.log.restarted(), policy=policy_of([KIND, KindPolicy(9, "nine", ("users",))]))
    assert codes(again.batch(A, new)) == {0: code}


def test_disk_low_rides_in_the_frame_and_takes_its_seq() -> None:
    """What depends on the world is decided before the log: replay never asks the world again."""
    world = World()
    id = world.new(A)
    world.pipe.disk_level = 2
    assert codes(world.batch(A, [append(id, 1), op(Verb.TOUCH, id, 2)])) == {0: Code.DISK_LOW, 1: Code.AFTER_REFUSAL}
    assert codes(world.batch(A, [op(Verb.DELETE, id, 3)])) == {}
    again = World(log=world.log.restarted())
    assert again.state.sessions.dump() == world.state.sessions.dump()


# ---------------------------------------------------------------------- KEY_LIVE, OUTCOME_UNKNOWN


def test_key_live_names_the_session_that_has_the_key() -> None:
    """A `key` live in its kind -> KEY_LIVE with the id and state, never a second session."""
    world = World(policy=policy_of([KIND, KindPolicy(2, "two", ("users",))]))
    ack = world.batch(A, [Op(Verb.NEW, 1, argument=1)], extras=[Extra(0, key="k")])
    id = SessionId(1, ack.term, ack.first_index)
    for _ in range(2):
        [result] = world.batch(B, [Op(Verb.NEW, 1, argument=1)], extras=[Extra(0, key="k")]).results
        assert result == Result(0, Code.KEY_LIVE, id.index, id.term, 0, SessionState.OPEN)
    assert codes(world.batch(B, [Op(Verb.NEW, 2, argument=2)], extras=[Extra(0, key="k")])) == {}
    world.batch(A, [op(Verb.DELETE, id, 1)])
    assert codes(world.batch(B, [Op(Verb.NEW, 3, argument=1)], extras=[Extra(0, key="k")])) == {}


def test_outcome_unknown_a_new_with_no_outcome_first_sent_an_hour_ago() -> None:
    """One with no outcome and a first sending an hour old or more -> OUTCOME_UNKNOWN, never a second session."""
    world = World()
    sent_ms = world.log_ms
    assert codes(world.batch(A, [Op(Verb.NEW, 1, argument=1)], first_sent_ms=sent_ms)) == {}
    world.pass_time(HOUR_MS)
    assert codes(world.batch(A, [Op(Verb.NEW, 2, argument=1)], first_sent_ms=sent_ms)) == {0: Code.OUTCOME_UNKNOWN}
    fresh = world.log_ms - HOUR_MS + 1
    assert codes(world.batch(A, [Op(Verb.NEW, 3, argument=1)], first_sent_ms=fresh)) == {}


def test_outcomes_are_kept_an_hour_after_the_clients_last_frame() -> None:
    """Outcomes win over any code in the frame; an hour later the resend is judged by its first sending."""
    world = World()
    sent_ms = world.log_ms
    first = world.batch(A, [Op(Verb.NEW, 1, argument=1)], first_sent_ms=sent_ms)
    world.pass_time(HOUR_MS - 1_000)
    [result] = world.batch(A, [Op(Verb.NEW, 1, argument=1)], first_sent_ms=sent_ms).results
    assert (result.code, result.index) == (Code.OK, first.first_index)
    world.pass_time(HOUR_MS + 1_000)
    assert codes(world.batch(A, [Op(Verb.NEW, 1, argument=1)], first_sent_ms=sent_ms)) == {0: Code.OUTCOME_UNKNOWN}


def test_outcome_unknown_of_a_session_finished_in_epoch_one_a_day_ago() -> None:
    """Without a trace: epoch 1 as above if the first sending is younger than 24 h, else OUTCOME_UNKNOWN."""
    world = World()
    id = world.new(A)
    delete = [op(Verb.DELETE, id, 1)]
    sent_ms = world.log_ms
    world.batch(A, delete, first_sent_ms=sent_ms)
    world.pass_time(DAY_MS - 1_000)
    assert codes(world.batch(A, delete, first_sent_ms=sent_ms)) == {}
    world.pass_time(1_000)
    assert codes(world.batch(A, delete, first_sent_ms=sent_ms)) == {0: Code.OUTCOME_UNKNOWN}
    assert codes(world.batch(A, delete)) == {}, "a resend does not renew the first sending; another sending does"


# ---------------------------------------------------------------------- LOG_BEHIND, LOST


def test_log_behind_an_id_or_an_epoch_beyond_the_logs_end() -> None:
    """An id beyond the log's end is LOG_BEHIND: an older copy of the data runs."""
    world = World()
    id = world.new(A)
    beyond = world.state.next_index
    assert codes(world.batch(A, [append(SessionId(1, 1, beyond + 50), 1)])) == {0: Code.LOG_BEHIND}
    assert codes(world.batch(A, [append(SessionId(1, 2, id.index), 1)])) == {0: Code.LOG_BEHIND}
    assert codes(world.batch(A, [append(id, 1, 2)])) == {0: Code.LOG_BEHIND}
    assert codes(world.batch(S, [op(Verb.FAIL, SessionId(1, 9, 1), 0)])) == {0: Code.LOG_BEHIND}


def test_lost_an_index_outside_its_terms_range_in_this_log() -> None:
    """One whose index lies outside its term's range in this log is LOST (repair, restore): never gone."""
    world = World()
    first = world.new(A)
    again = World(log=world.log.restarted())
    second = again.new(B)
    assert second.term == 2
    assert codes(again.batch(A, [append(SessionId(1, 1, second.index), 1)])) == {0: Code.LOST}
    assert codes(again.batch(A, [append(SessionId(1, 2, first.index), 1)])) == {0: Code.LOST}
    assert codes(again.batch(S, [op(Verb.PARK, SessionId(1, 2, first.index), 0)])) == {0: Code.LOST}
    assert codes(again.batch(B, [append(second, 1)])) == {}


# ---------------------------------------------------------------------- what the pipe proposes, and replay


def test_a_proposal_is_void_when_epoch_or_change_has_moved() -> None:
    """Entries that the pipe itself proposes name the (epoch, `change`) they were decided on."""
    world = World()
    id = world.new(A)
    session = live(world, id)
    late = Proposal(ProposalVerb.EXPIRE, id.term, id.index, 1, session.change, Cause.IDLE)
    world.batch(A, [op(Verb.TOUCH, id, 1)])
    world.pipe.propose([late, late._replace(epoch=2), late._replace(index=9_999)], world.now_ms)
    world.work()
    assert session.state == SessionState.OPEN
    world.pipe.propose([late._replace(change=session.change)], world.now_ms)
    world.work()
    assert session.state == SessionState.STORED


def test_owner_gone_holds_for_its_incarnation_only() -> None:
    """A death is a fact about the incarnation: what another writes is not stored by it."""
    world = World()
    id = world.new(A)
    gone = Proposal(ProposalVerb.OWNER_GONE, id.term, id.index, 1, live(world, id).change, target=B)
    world.pipe.propose([gone], world.now_ms)
    world.work()
    assert live(world, id).state == SessionState.OPEN


def test_policy_is_in_the_log_and_in_force_from_there() -> None:
    """A Policy frame at opening: the delay of a stored session is the one that was in force then, at replay too."""
    world = World(policy=policy_of([KindPolicy(1, "one", ("users",), delay_ms=111)]))
    id = world.new(A)
    world.batch(A, [op(Verb.STORE, id, 1, argument=(1 << 64) - 1)])
    due_ms = live(world, id).due_ms
    again = World(log=world.log.restarted(), policy=policy_of([KindPolicy(1, "one", ("users",), delay_ms=999)]))
    assert live(again, id).due_ms == due_ms
    assert again.state.policy.kinds[1].delay_ms == 999


def test_the_first_due_time_of_a_session_left_behind_by_a_restart_is_its_own() -> None:
    """Live operation and restart run the same `apply`: equal dumps after any history."""
    world, id = repeating()
    world.batch(B, [append(id, 1, 2), op(Verb.STORE, id, 2, 2, argument=5_000)])
    other = world.new(A, b"other")
    say(world, AdminVerb.CANCEL, other)
    world.batch(A, [Op(Verb.NEW, 99, argument=9)])
    dump = world.state.dump()
    replayed = State(1)
    for frame in world.log.restarted().replay():
        replayed.apply(frame)
    assert replayed.dump() == dump


def test_an_operators_word_that_does_not_fit_is_a_verdict_too() -> None:
    """BAD_REQUEST for a state that the word does not meet, NO_SUCH_SESSION for no session; nothing changes."""
    world = World()
    id = world.new(A)
    before = world.state.sessions.dump()
    assert [result.code for result in say(world, AdminVerb.KICK, id).results] == [Code.BAD_REQUEST]
    nobody = SessionId(1, 1, 1)
    assert [result.code for result in say(world, AdminVerb.DELETE, nobody).results] == [Code.NO_SUCH_SESSION]
    assert world.state.sessions.dump() == before


def test_log_time_is_set_forward_once_to_the_wall_clock() -> None:
    """Frames carry log time, and the state's never goes back."""
    world = World(wall_ms=WALL_MS)
    assert world.state.log_ms == WALL_MS
    world.new(A)
    world.pass_time(1_234)
    world.new(A)
    assert world.state.log_ms == WALL_MS + 1_234
