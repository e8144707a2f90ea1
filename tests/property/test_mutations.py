"""The judge is judged: each fault planted in the state is found by the state machine's test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from .mutations import MUTATIONS
from .planted import Mutation, state_with
from .test_state_machine import Histories

# The same histories each time, and no shrinking: what is asked is only whether one of them fails.
BOUNDED = settings(
    max_examples=500,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.mutation
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.name).replace(" ", "-"))
def test_every_planted_fault_is_found(mutation: Mutation) -> None:
    """A wrong state machine does not pass: some history ends in a difference, within the bound."""
    planted = state_with([mutation])

    class Planted(Histories):
        new_state = staticmethod(planted)

    with pytest.raises((AssertionError, KeyError)):  # KeyError: an index of the state had lost a session
        run_state_machine_as_test(Planted, settings=BOUNDED)


@pytest.mark.mutation
def test_without_a_fault_nothing_is_found() -> None:
    """The same modules run afresh, and unchanged, pass: it is the fault that is found, not the planting."""

    class Unchanged(Histories):
        new_state = staticmethod(state_with([]))

    run_state_machine_as_test(Unchanged, settings=settings(BOUNDED, max_examples=50))


def test_a_fault_that_no_longer_fits_the_text_is_reported() -> None:
    """When the state's text moves on, a mutation that does not apply any more is an error, not a pass."""
    with pytest.raises(ValueError, match="0 places in"):
        state_with([Mutation("gone", "mpy6a.state", "no such text", "")])
