"""What users read of refusals and warnings."""

from __future__ import annotations

import logging

import pytest

import mpy6a
from mpy6a import errors
from mpy6a.client import verdicts
from mpy6a.client.notices import log_notice
from mpy6a.errors import Code
from mpy6a.messages import Notice
from mpy6a.model import Result, SessionState


def test_a_refusal_says_who_what_and_what_to_do() -> None:
    """The subject, the advice of the error's class, and what the pipe said."""
    error = verdicts.refusal(Result(0, Code.FENCED, epoch=7, message="by users-2"), 1, "session 1.2.3")
    assert isinstance(error, errors.Fenced)
    assert str(error) == (
        "session 1.2.3: Another writer owns the session now: stop, and roll your own transaction back. "
        "(its epoch is 7 now; by users-2)"
    )


def test_a_live_key_leads_to_the_session_that_has_it() -> None:
    error = verdicts.refusal(Result(0, Code.KEY_LIVE, 9, 2, state=SessionState.STORED), 1, "new session")
    assert isinstance(error, errors.KeyLive)
    assert (error.session_id, error.state) == ("1.2.9", "STORED")


def test_what_a_newer_peer_says_is_passed_on() -> None:
    """Codes and states that this release does not know keep their numbers."""
    error = verdicts.error(999, "pipe 1", "a new reason")
    assert type(error) is errors.Refused
    assert "code 999" in str(error)
    assert "a new reason" in str(error)
    assert verdicts.state_name(99) == "99"


def test_a_silent_writer_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    """The facts are fields of the log record."""
    with caplog.at_level(logging.WARNING, "mpy6a.client"):
        log_notice(1, Notice(2, 3, 4, 60_000))
    (record,) = caplog.records
    assert (vars(record)["session"], vars(record)["epoch"], vars(record)["remaining_ms"]) == ("1.2.3", 4, 60_000)


def test_every_public_name_is_there() -> None:
    """Names are imported when they are first used; an unknown one is an AttributeError as usual."""
    for name in mpy6a.__all__:
        if name != "testing":
            assert getattr(mpy6a, name) is not None
        assert name in dir(mpy6a)
    with pytest.raises(AttributeError, match="no attribute 'Pipes'"):
        getattr(mpy6a, "Pipes")  # noqa: B009 -- a checker would refuse the plain form
