"""What the tests of the client share: an honest pipe behind a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.hop import Hop
from tests.unit.client.running import door


@pytest.fixture
def hop(short_tmp: Path) -> Iterator[Hop]:
    """A door at `hop.address`, open until the test is over. Whatever the test is about, its client never does what a
    client must not do: resend other bytes, or have two groups of a session in flight."""
    with Hop(door(short_tmp)) as opened:
        yield opened
    assert not opened.pipe.violations
