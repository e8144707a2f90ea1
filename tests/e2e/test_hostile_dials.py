"""What bad input gets over the connections that a pipe dials, and from those who claim to be its sidecars."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mpy6a import limits
from mpy6a.errors import Code
from mpy6a.messages import Accepted, Heartbeat, KindCredit, MessageType, SessionEpoch, SidecarHello
from tests.e2e import hostile
from tests.e2e.beside import dropped, greeted, has_not_ended, is_fine, pipe_beside, wait_dropped
from tests.e2e.live import KIND, Companion, Live, Peer, new_incarnation
from tests.ports import FreePorts

pytestmark = [pytest.mark.e2e, pytest.mark.alone]


@pytest.fixture(scope="module")
def live(free_port: FreePorts) -> Iterator[Live]:
    """One pipe for all cases of this file: whoever ends it has failed, and so has everybody after."""
    with pipe_beside(free_port) as live:
        yield live


@pytest.fixture(autouse=True)
def _not_after_its_end(live: Live) -> None:
    has_not_ended(live)


@pytest.mark.parametrize("identity", [b"", b"s", b"users", b"\x01" * 15, b"\x01" * 17, b"\x01" * 255])
def test_whoever_answers_a_dial_without_an_incarnation_is_not_greeted(live: Live, identity: bytes) -> None:
    """An identity that is no incarnation is counted as a probe and gets nothing."""
    before = dropped(live, "probe")
    with Peer(live.push, identity=identity, bind=True, probe=True) as peer:
        wait_dropped(live, "probe", before + 1, peer)
        assert peer.is_silent(0.05)


def test_what_is_said_over_a_dial_is_dropped_and_counted(live: Live) -> None:
    """The socket that the pipe dials only receives: noise, batches and many frames there are nobody's orders."""
    before = dropped(live, "spoke_on_dial")
    with Peer(live.push, identity=new_incarnation(), bind=True, probe=True) as peer, Companion(live.listen):
        greeted(peer)
        said = [*hostile.stalls(), *hostile.MESSAGES_REFUSED.values(), hostile.packed(Heartbeat()), b"x" * 100_000]
        for payload in said:
            peer.send(payload)
        for frames in hostile.FRAMES.values():
            peer.send(*frames)
        wait_dropped(live, "spoke_on_dial", before + len(said) + len(hostile.FRAMES))
    is_fine(live)


def test_hellos_of_strangers_and_of_old_dials_are_not_taken(live: Live) -> None:
    """Whoever was not dialed is refused, a name the config does not know is DENIED; a dial that is none is told so."""
    before = dropped(live, "old_dial")
    incarnation = new_incarnation()
    with Peer(live.push, identity=incarnation, bind=True, probe=True) as dialed, Peer(live.listen) as peer:
        greeting = greeted(dialed)
        peer.say(SidecarHello(greeting.dial, greeting.term, "users"))  # from an incarnation that was not dialed
        assert peer.error().code == Code.MALFORMED
        peer.incarnation = incarnation
        for dial, term in ((greeting.dial + 1, greeting.term), (0, 0), (greeting.dial, greeting.term + 1)):
            peer.say(SidecarHello(dial, term, "users"))
            error = peer.error()
            assert (error.code, error.type, error.number) == (Code.BAD_REQUEST, MessageType.SIDECAR_HELLO, dial)
            peer.say(Accepted(dial, term, (1 << 64) - 1, (KindCredit(KIND, (1 << 64) - 1, (1 << 64) - 1),)))
        wait_dropped(live, "old_dial", before + 6)
        peer.say(SidecarHello(greeting.dial, greeting.term, "strange"))
        error = peer.error()
        assert error.code == Code.DENIED
        assert "users" in error.message
        assert not any(sidecar["connected"] for sidecar in live.status()["sidecars"])


def test_a_sidecar_that_grants_absurd_credit_does_no_harm(live: Live) -> None:
    """Credit for kinds that no route names is nobody's: status answers, sessions of others go on."""
    incarnation = new_incarnation()
    with Peer(live.push, identity=incarnation, bind=True, probe=True) as dialed, Peer(live.listen) as peer:
        peer.incarnation = incarnation
        greeting = greeted(dialed)
        most = (1 << 64) - 1
        peer.say(SidecarHello(greeting.dial, greeting.term, "users", (SessionEpoch(1, 1, 1),) * 9))
        for first in range(0, 40 * limits.KINDS_MAX, limits.KINDS_MAX):
            credit = tuple(KindCredit(first + n, most, most) for n in range(limits.KINDS_MAX))
            peer.say(Accepted(greeting.dial, greeting.term, most, credit))
        peer.hello()
        is_fine(live)


def test_the_router_abort_of_identities_taken_twice(live: Live) -> None:
    """Two with one identity, on the bound and on the dialed side: no remote kill of the pipe.

    With ZMQ_CONNECT_ROUTING_ID, or one ROUTER that binds and dials, libzmq ends the process here
    (router.cpp: Assertion failed: !has_out_pipe).
    """
    incarnation = new_incarnation()
    with Peer(live.listen, identity=incarnation) as early, Peer(live.listen, identity=b"users") as named:
        early.hello()
        named.hello()
        for _ in range(2):  # dialed, gone, and dialed again with messages queued
            with Peer(live.push, identity=incarnation, bind=True, probe=True) as dialed:
                greeting = greeted(dialed)
                early.incarnation = incarnation
                early.say(SidecarHello(greeting.dial, greeting.term, "users"))
                early.hello()
        with Peer(live.listen, identity=incarnation) as twice:
            twice.send(hostile.BEAT)
            early.hello()
            is_fine(live)
