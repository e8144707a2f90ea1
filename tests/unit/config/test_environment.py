"""Values of config files may come from the environment: only values, only once, and never without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mpy6a import limits
from mpy6a.config import ConfigProblems, ExecHandler, HttpHandler, load_pipe, load_routes, load_sidecar
from mpy6a.config.environment import NotSubstituted, substitute
from mpy6a.config.jsonschema import schema_of
from mpy6a.config.problems import Findings
from mpy6a.config.yamlfile import read

ENVIRON = {"NAME": "users", "EMPTY": "", "NESTED": "${NAME}", "_A1": "x"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("${NAME}", "users"),
        ("a-${NAME}-${_A1}.sock", "a-users-x.sock"),
        ("${NAME:-other}", "users"),
        ("${MISSING:-other}", "other"),
        ("${MISSING:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${MISSING:-tcp://h:1, [x] $y}", "tcp://h:1, [x] $y"),
        ("${NESTED}", "${NAME}"),  # what a variable says is not looked at again
        ("$${NAME}", "${NAME}"),
        ("$${", "${"),
        ("$$${NAME}", "$${NAME}"),
        ("$NAME $ {NAME} $$ $(NAME) }", "$NAME $ {NAME} $$ $(NAME) }"),
    ],
)
def test_what_is_written_out(text: str, result: str) -> None:
    """`${NAME}`, `${NAME:-default}`, `$${`; everything else stays as it stands."""
    assert substitute(text, ENVIRON, 1_000) == result


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("${MISSING}", "${MISSING}, which is not set"),
        ("a ${NAME} b ${MISSING}", "${MISSING}, which is not set"),
        *[
            (text, "${ without a name and a } behind it")
            for text in (
                "${", "${}", "${NAME", "${1A}", "${NAME-x}", "${NAME:x}", "${ NAME}", "${NAMÉ}", "${MISSING:-${NAME}}",
                "${NAME:?no}", "${" + "A" * 129 + "}",
            )
        ],
    ],
)  # fmt: skip
def test_what_cannot_be_written_out(text: str, found: str) -> None:
    """One that is not set and has no default, and whatever looks like a variable and is none."""
    with pytest.raises(NotSubstituted) as raised:
        substitute(text, ENVIRON, 1_000)
    assert raised.value.found == found
    assert "${NAME}" in raised.value.allowed or ":-default" in raised.value.allowed


@given(st.text(alphabet="${}:-AB_ \n", max_size=40), st.dictionaries(st.sampled_from("AB_"), st.text(max_size=20)))
def test_any_text(text: str, environ: dict[str, str]) -> None:
    """A result within its bound, or a word about what is wrong; a `$${` for each `${` gives the text back."""
    assert substitute(text.replace("${", "$${"), environ, 1_000) == text
    try:
        assert len(substitute(text, environ, 50)) <= 50
    except NotSubstituted as problem:
        assert problem.found  # noqa: PT017  # either is fine


def test_the_result_is_bounded() -> None:
    """However often a long variable is named."""
    environ = {"LONG": "x" * 100}
    assert len(substitute("${LONG}" * 10, environ, 1_000)) == 1_000
    with pytest.raises(NotSubstituted, match="too long"):
        substitute("${LONG}" * 10 + "y", environ, 1_000)
    with pytest.raises(NotSubstituted, match="too long"):
        substitute("${LONG}" * 100_000, environ, 1_000)


# ---------------------------------------------------------------------- in files


def values(tmp_path: Path, text: str) -> object:
    (tmp_path / "any.yaml").write_text(text)
    findings = Findings()
    document = read(tmp_path / "any.yaml", findings)
    assert findings.problems() == []
    assert document is not None
    return document.values


def test_a_plain_value_is_what_it_would_be_if_it_stood_there_and_a_quoted_one_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pipe: ${PIPE}` is a number; quotes make it text; no variable makes a list, a mapping or a key."""
    environ = {"N": "7", "T": "true", "F": "1.5", "M": "{a: 1}", "L": "- a\n- b", "C": "x # no comment"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MISSING", raising=False)
    text = "n: ${N}\nq: \"${N}\"\ns: '${N}'\nb: |-\n  ${N}\nt: ${T}\nf: ${F}\nm: ${M}\nl: ${L}\nc: ${C}\n"
    assert values(tmp_path, text + "d: ${MISSING:-9}\n'${N}': k\ne: $${N}\nz: 1${N}\n") == {
        "n": 7, "q": "7", "s": "7", "b": "7", "t": True, "f": 1.5, "m": "{a: 1}", "l": "- a\n- b",
        "c": "x # no comment", "d": 9, "${N}": "k", "e": "${N}", "z": 17,
    }  # fmt: skip


PIPE = """
pipe: ${PIPE}
data: ${DATA:-./data}
listen: ["tcp://${HOST}:${PORT:-7400}"]
routes: ${ROUTES}
sidecars:
  users: tcp://${HOST}:7401
log: {fsync: "${FSYNC:-always}"}
lease: ${LEASE:-3s}
limits:
  session_records: ${RECORDS:-8}
"""
ROUTES = """
kinds:
  mail:
    id: 3
    sidecars: ["${NAME}"]
    handler: {http: "http://${HOST}:81/a"}
    repeat: {timeout: "${TIMEOUT:-5s}"}
  run:
    id: 5
    sidecars: [users]
    handler: {exec: [sh, -c, "echo $${HOME} ${HOST}"]}
"""
SIDECAR = """
name: ${NAME}
listen: ipc://${RUN}/users.sock
pipes: ["tcp://${HOST}:7400"]
push: tcp://*:${PUSH:-7401}
routes: ${ROUTES}
"""


@pytest.fixture
def place(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {"pipe.yaml": PIPE, "paths.yaml": ROUTES, "sidecar.yaml": SIDECAR}.items():
        (short_tmp / name).write_text(text)
    for name in ("DATA", "PORT", "FSYNC", "LEASE", "RECORDS", "TIMEOUT", "PUSH"):
        monkeypatch.delenv(name, raising=False)
    environ = {"PIPE": "7", "HOST": "10.0.0.1", "ROUTES": "paths.yaml", "NAME": "users", "RUN": "/run"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return short_tmp


def test_all_three_files_take_variables(place: Path) -> None:
    """Paths, addresses, numbers, durations, words: wherever a value stands, also the path of the routes."""
    pipe = load_pipe(place / "pipe.yaml")
    assert (pipe.pipe, pipe.data, pipe.listen) == (7, place / "data", ("tcp://10.0.0.1:7400",))
    assert (pipe.policy.lease_ms, pipe.policy.session_records_max) == (3_000, 8)
    assert dict(pipe.sidecars) == {"users": "tcp://10.0.0.1:7401"}
    routes = load_routes(place / "paths.yaml")
    assert routes.kinds["mail"].handler == HttpHandler("http://10.0.0.1:81/a")
    assert routes.kinds["mail"].policy.timeout_ms == 5_000
    assert routes.kinds["run"].handler == ExecHandler(("sh", "-c", "echo ${HOME} 10.0.0.1"), place)
    sidecar = load_sidecar(place / "sidecar.yaml")
    assert (sidecar.name, sidecar.listen, sidecar.push) == ("users", "ipc:///run/users.sock", "tcp://*:7401")
    assert list(sidecar.kinds) == ["mail", "run"]


def test_an_editor_takes_them_too(place: Path) -> None:
    """The JSON Schema says nothing against a variable in a value, whatever the value is to be."""
    import yaml

    for file, text in (("pipe", PIPE), ("routes", ROUTES), ("sidecar", SIDECAR)):
        validator = Draft202012Validator(schema_of(file))  # type: ignore[arg-type]  # one of the three
        assert list(validator.iter_errors(yaml.safe_load(text))) == []
    odd = {"kinds": {"${K}": {"id": "${ID}", "sidecars": ["a"], "handler": {"attached": "${A}"}, "records": "${R}"}}}
    (error, _) = sorted(Draft202012Validator(schema_of("routes")).iter_errors(odd), key=lambda one: one.validator)
    assert error.validator == "anyOf"  # `records` beside `attached`; the key is the other


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigProblems) as raised:
        load_pipe(path)
    return str(raised.value).splitlines()


def test_what_is_wrong_names_file_line_and_key(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a variable that is not set, one that is empty, and one whose value is wrong there."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("PIPE")
    monkeypatch.delenv("ROUTES")
    monkeypatch.setenv("DATA", "a\x07b")
    monkeypatch.setenv("LEASE", "")
    monkeypatch.setenv("RECORDS", "010")
    monkeypatch.setenv("FSYNC", "alway")
    assert problems(Path("pipe.yaml")) == [
        "pipe.yaml:2: pipe: found ${PIPE}, which is not set, allowed: a variable that is set, or ${PIPE:-default}",
        "pipe.yaml:3: data: found ${DATA:-./data}, with control characters in a variable, "
        "allowed: text without control characters",
        "pipe.yaml:5: routes: found ${ROUTES}, which is not set, "
        "allowed: a variable that is set, or ${ROUTES:-default}",
        "pipe.yaml:8: log.fsync: found 'alway', allowed: always or interval; did you mean 'always'?",
        "pipe.yaml:11: limits.session_records: found 010, an octal number for some readers of YAML, "
        "allowed: a decimal number, or quotes around a text",
    ]
    Path("pipe.yaml").write_text("pipe: 1\ndata: ${EMPTY}\nroutes: {kinds: {}}\nlease: ${ NAME}\n")
    monkeypatch.setenv("EMPTY", "")
    assert problems(Path("pipe.yaml")) == [
        "pipe.yaml:2: data: found ${EMPTY}, which is empty, allowed: a value; without one leave the key out",
        "pipe.yaml:4: lease: found ${ without a name and a } behind it, allowed: ${NAME} or ${NAME:-default} "
        "with a name of letters, digits and '_'; a literal ${ is written $${",
    ]


def test_between_brackets_yaml_wants_quotes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`[${A}]` is no YAML: the error says so, and what to do."""
    monkeypatch.chdir(place)
    for text in ("listen: [${A}]\n", "log: {fsync: ${A}}\n", "listen: [tcp://${HOST}:1]\n"):
        Path("pipe.yaml").write_text(f"pipe: 1\n{text}")
        said = [line for line in problems(Path("pipe.yaml")) if line.startswith("pipe.yaml:2:")]
        assert said
        assert all(line.endswith("; between [ ] or { } a text with ${ is put in quotes") for line in said), said


def test_what_variables_add_to_a_file_is_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short file that names a long variable often is refused, in bounded time."""
    monkeypatch.setenv("LONG", "x" * 100_000)
    count = limits.CONFIG_BYTES_MAX // 100_000 + 1
    (place / "pipe.yaml").write_text("".join(f"k{number}: ${{LONG}}\n" for number in range(count)))
    said = problems(place / "pipe.yaml")
    assert sum("values of variables that are too long" in line for line in said) == 1
