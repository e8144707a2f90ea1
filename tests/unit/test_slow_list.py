"""The tests that the inner loop leaves out are there, under the names that the list has."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_slow_test_is_there() -> None:
    """A name that nobody has any more would hide that a slow one is back in the loop."""
    lines = (TESTS / "slow.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert len(names) == len(set(names)) > 0
    for name in names:
        file, _, function = name.partition("::")
        assert f"def {function}(" in (TESTS.parent / file).read_text(encoding="utf-8"), name
