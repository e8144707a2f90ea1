"""No test is skipped, or fails as expected, unless the committed list says so and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import skip_list
from tests.skip_list import Entry, SkipList, read

pytest_plugins = ("pytester",)


def _run(pytester: pytest.Pytester, source: str, listed: str = "") -> pytest.RunResult:
    pytester.makepyfile(test_it=source)
    return pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", plugins=[SkipList(read(listed), where="skips.txt")]
    )


@pytest.mark.parametrize(
    "body",
    [
        "@pytest.mark.skip(reason='no disk')\ndef test_a(): pass",
        "@pytest.mark.skipif(True, reason='no disk')\ndef test_a(): pass",
        "def test_a(): pytest.skip('no disk')",
        "@pytest.fixture\ndef disk(): pytest.skip('no disk')\ndef test_a(disk): pass",
        "import unittest\nclass TestA(unittest.TestCase):\n    def test_a(self): self.skipTest('no disk')",
        "pytest.skip('no disk', allow_module_level=True)",
    ],
    ids=["mark", "condition", "call", "fixture", "unittest", "module"],
)
def test_a_skip_that_is_not_listed_fails_the_session(pytester: pytest.Pytester, body: str) -> None:
    result = _run(pytester, f"import pytest\n{body}\n")
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*skip that skips.txt does not list: test_it.py* | no disk*"])
    assert "skipped" not in result.parseoutcomes()


@pytest.mark.parametrize(
    "body",
    [
        "@pytest.mark.xfail(reason='known')\ndef test_a(): assert False",
        "@pytest.mark.xfail(reason='known', strict=False)\ndef test_a(): pass",
        "def test_a(): pytest.xfail('known')",
        "@pytest.mark.xfail(reason='known', run=False)\ndef test_a(): pass",
    ],
    ids=["fails", "passes", "call", "not run"],
)
def test_an_expected_failure_that_is_not_listed_fails_the_session(
    pytester: pytest.Pytester, body: str
) -> None:
    result = _run(pytester, f"import pytest\n{body}\n")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(result.parseoutcomes()) <= {"failed", "errors"}
    result.stdout.fnmatch_lines(["*expected failure that skips.txt does not list: *::test_a |*known*"])


def test_a_listed_skip_passes_and_is_named(pytester: pytest.Pytester) -> None:
    result = _run(
        pytester,
        "import pytest\ndef test_a(): pytest.skip('no disk')\ndef test_b(): pass\n",
        "test_it.py::test_a | no disk",
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*skipped, as listed in skips.txt*", "test_it.py::test_a | no disk"])


def test_workers_of_xdist_are_bound_by_the_list(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not listed fails also where tests run in processes beside, and what is listed is named by the one that
    writes the summary."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    root = str(Path(skip_list.__file__).parent)
    pytester.makeconftest(
        f"import sys\nsys.path.insert(0, {root!r})\nimport skip_list\n"
        "def pytest_configure(config):\n"
        "    entries = skip_list.read('test_it.py::test_a | no disk')\n"
        "    config.pluginmanager.register(skip_list.SkipList(entries, where='skips.txt'))\n"
    )
    pytester.makepyfile(
        test_it="import pytest\ndef test_a(): pytest.skip('no disk')\ndef test_b(): pytest.skip('no net')\n",
        test_module="import pytest\npytest.skip('no host', allow_module_level=True)\n",
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "xdist", "-n", "1")
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["test_it.py::test_a | no disk"])
    for one in ("test_it.py::test_b | no net", "test_module.py | no host"):
        result.stdout.fnmatch_lines([f"*skip that skips.txt does not list: {one}*"])


def test_a_listed_expected_failure_passes_and_is_named(pytester: pytest.Pytester) -> None:
    result = _run(
        pytester,
        "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_a(): assert False\n",
        "test_it.py::test_a | known",
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["test_it.py::test_a | known"])


def test_a_listed_test_that_is_skipped_for_another_reason_fails(pytester: pytest.Pytester) -> None:
    """A skip on the list is no licence for the next one."""
    result = _run(pytester, "import pytest\ndef test_a(): pytest.skip('no net')\n", "test_it.py::* | no disk")
    result.assert_outcomes(failed=1)


def test_what_runs_is_left_alone(pytester: pytest.Pytester) -> None:
    result = _run(pytester, "def test_a(): pass\ndef test_b(): assert False\n", "test_it.py::* | no disk")
    result.assert_outcomes(passed=1, failed=1)
    assert "skips.txt" not in result.stdout.str()


def test_only_the_asterisk_is_special_in_a_pattern() -> None:
    """A parametrised test's id is listed as it is printed, brackets included."""
    entry = Entry("tests/e2e/*::test_a[3.11]", "why")
    assert entry.allows("tests/e2e/x.py::test_a[3.11]", "why")
    assert not entry.allows("tests/e2e/x.py::test_a[3x11]", "why")
    assert not entry.allows("tests/e2e/x.py::test_a[3.11]x", "why")
    assert not entry.allows("tests/e2e/x.py::test_a[3.11]", "why not")


def test_comments_and_empty_lines_are_no_entries() -> None:
    assert read("# a | b\n\na::b | because | of c\n") == (Entry("a::b", "because | of c"),)


@pytest.mark.parametrize("line", ["a::b", "a::b | ", " | why", "a::b|why", "a | b\na | b"])
def test_a_line_that_says_no_reason_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"line \d"):
        read(line)
