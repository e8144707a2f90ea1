"""A client that was given up and is heard again: what it, its service and the pipes are told."""

from __future__ import annotations

from mpy6a.messages import Batch, Heartbeat, Hello, MessageType, Serve, Welcome
from mpy6a.model import Op, Verb
from tests.unit.sidecar.desk import ANN, ATTACHED, Desk


def batch(number: int = 1, record: bytes = b"x") -> Batch:
    return Batch(number, 1, 0, [Op(Verb.NEW, 1, argument=1, record=record)], [])


def test_a_client_that_is_back_is_told_alive_before_what_it_says() -> None:
    """Or the pipe, told that it is gone, would take what it opens for a dead client's, and store it at once."""
    desk = Desk().heard()
    desk.service(ANN, Hello(name="app"))
    desk.flush()
    while not any(isinstance(one, Heartbeat) and ANN in one.gone for one in desk.to_pipe(Heartbeat)):
        desk.tick(1_000)
        assert desk.now_ms < 20_000
    desk.service(ANN, batch())
    desk.flush()
    kinds = [message.type for message in desk.packed_to_pipe()]
    assert kinds == [MessageType.HEARTBEAT, MessageType.BATCH]
    assert desk.to_pipe(Heartbeat) == [Heartbeat((ANN,), ())]
    for _ in range(20):
        desk.service(ANN, Heartbeat())
        desk.tick(1_000)
        beats = [one for one in desk.to_pipe(Heartbeat) if isinstance(one, Heartbeat)]
        assert all(ANN not in beat.gone for beat in beats)


def _given_up() -> tuple[Desk, bytes]:
    """A sidecar that has given ANN up after a lease without a word; what its welcome named it by."""
    desk = Desk().heard().serving()
    desk.flush()
    (first,) = desk.to_service(ANN, Welcome)
    assert isinstance(first, Welcome)
    while len(desk.agent.clients):
        desk.tick(1_000)
        assert desk.now_ms < 20_000
    return desk, first.hop


def test_a_service_that_stood_still_and_only_beats_is_asked_to_announce_itself_anew() -> None:
    """Its connection stands, so it would never serve again by itself. Found by the simulator. A heartbeat revives
    nobody: it may have been on its way when the service died."""
    desk, before = _given_up()
    hops = set()
    for _ in range(2):
        desk.service(ANN, Heartbeat(), identity=b"of the beats")
        desk.flush()
        (again,) = desk.to_service(ANN)
        assert isinstance(again, Welcome)
        hops.add(again.hop)
        assert len(desk.agent.clients) == 0
    (new,) = hops
    assert new != before
    desk.service(ANN, Serve((ATTACHED,), 8))
    desk.flush()
    (known,) = desk.to_service(ANN, Welcome)
    assert isinstance(known, Welcome)
    assert known.hop == new, "it has announced itself: not once more"
    assert desk.agent.clients.served(ATTACHED)


def test_a_service_that_stood_still_and_goes_on_writing_is_told_that_it_is_new_here() -> None:
    """Whatever it says first."""
    desk, before = _given_up()
    desk.service(ANN, batch())
    desk.flush()
    (welcomed,) = desk.to_service(ANN, Welcome)
    assert isinstance(welcomed, Welcome)
    assert welcomed.hop != before


def test_who_comes_back_again_and_again_is_new_each_time() -> None:
    """However often it stands still."""
    desk, hop = _given_up()
    hops = {hop}
    for _ in range(3):
        desk.service(ANN, batch())
        desk.flush()
        (welcomed,) = desk.to_service(ANN, Welcome)
        assert isinstance(welcomed, Welcome)
        hops.add(welcomed.hop)
        while len(desk.agent.clients):
            desk.tick(1_000)
    assert len(hops) == 4
