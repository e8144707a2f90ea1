"""docs/GUARD.md is true where no server is needed: its SQL is the guard's, its sqlite3 lines refuse a zombie."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from mpy6a import guard
from mpy6a.guard.databases import Answer, Postgres

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "GUARD.md").read_text(encoding="utf-8")
SNIPPETS: list[str] = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_the_migration_is_what_create_executes() -> None:
    """Whoever makes the table by a migration has the table that `create` makes."""
    steps = Postgres(cast("Any", None)).creating('"mpy6a_fence"')
    next(steps)
    executed = steps.send(Answer(0, (False,))).sql
    [told] = re.findall(r"^```sql\n(.*?)\n```$", TEXT, re.DOTALL | re.MULTILINE)
    assert executed.endswith(f";\n{told}")


def test_every_snippet_is_known_to_a_test() -> None:
    """The others are run by tests/e2e/test_guard_postgres.py."""
    names = [re.search(r"def (\w+)", text) for text in SNIPPETS]
    assert [name and name[1] for name in names] == ["pay_postgres", "pay_async", "pay_sqlite", "clean"]


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@pytest.mark.parametrize("isolation", [None, "DEFERRED"])
def test_the_lines_for_sqlite3(isolation: str | None) -> None:
    """Whatever way Python begins transactions by itself on this connection."""
    names: dict[str, Any] = {"guard": guard}
    exec(compile(SNIPPETS[2], "docs/GUARD.md", "exec"), names)
    with closing(sqlite3.connect(":memory:", isolation_level=cast("Any", isolation))) as connection:
        guard.create(connection)
        connection.execute("CREATE TABLE payment (amount INTEGER)")
        connection.commit()
        names["pay_sqlite"](connection, {"Mpy6a-Session": "1.3.5", "Mpy6a-Fence": "8"}, 100)
        with pytest.raises(guard.Fenced):
            names["pay_sqlite"](connection, {"Mpy6a-Session": "1.3.5", "Mpy6a-Fence": "7"}, 100)
        assert not connection.in_transaction
        assert connection.execute("SELECT amount FROM payment").fetchall() == [(100,)]
