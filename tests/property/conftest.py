"""The planted mutations are no part of the inner loop: they run in the profiles ci and soak, or when asked for."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mutation: plants faults and looks whether a test finds them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = "mutation" in config.option.markexpr or os.environ.get("HYPOTHESIS_PROFILE", "quick") != "quick"
    planted = [item for item in items if item.get_closest_marker("mutation")]
    if planted and not asked:
        config.hook.pytest_deselected(items=planted)
        items[:] = [item for item in items if item not in planted]
