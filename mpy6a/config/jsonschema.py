"""JSON Schema (draft 2020-12) of the three config files, for editors: made of the sections that check them.

What it marks is wrong. It lets through what only the checks know: whether a duration is in its
range, and what two keys or two files have to do with each other. Descriptions are the comments of configs/*.yaml.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin

from mpy6a import limits, resources, units
from mpy6a.config import addresses, pipe, routes, values
from mpy6a.config.checking import FileType
from mpy6a.config.pipe import PipeSection
from mpy6a.config.routes import HandlerSection, KindSection, RepeatSection, RoutesSection
from mpy6a.config.schema import AfterValidator, FieldInfo
from mpy6a.config.section import Section
from mpy6a.config.sidecar import SidecarSection
from mpy6a.disk import Amount

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SECTIONS: Final[Mapping[FileType, type[Section]]] = {
    "pipe": PipeSection,
    "routes": RoutesSection,
    "sidecar": SidecarSection,
}

Form = dict[str, Any]
Path = tuple[str, ...]

# Patterns mean the same to Python's `re` and to ECMA-262, which JSON Schema names.
_DURATION: Final = "(?=[0-9])" + "".join(f"([0-9]{{1,12}}{unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms"))
_SIZE: Final = "[0-9]{1,12}([KMG]iB|[KMG]?B)"
_PERCENT: Final = r"[0-9]{1,3}(\.[0-9])?%"
_HOST: Final = r"(\[[0-9A-Fa-f:.%a-z]{2,64}\]|[A-Za-z0-9_.-]{1,253})"
_PORT: Final = "[0-9]{1,5}"
_DOTTED: Final = r"[^\s:.]+(\.[^\s:.]+)*"
_VARIABLE: Final = r"\$\{"
_PATH: Final[Form] = {"type": "string", "pattern": "^[^~]", "maxLength": addresses.PATH_BYTES_MAX}


def schema_of(file: FileType) -> Form:
    """The schema of one of the files, as JSON values. A mapping has no key but those that are known."""
    form: Form = {
        "$schema": DIALECT,
        "title": f"mpy6a: {file}.yaml",
        "$comment": "made by `mpy6a config schema`; `mpy6a config check` checks what lies between keys and files too",
    }
    form |= _section(SECTIONS[file], (), _comments(file))
    if file != "routes":
        form["$defs"] = {"routes": _section(RoutesSection, (), _comments("routes"))}
    return form


def _section(section: type[Section], where: Path, comments: Mapping[Path, str]) -> Form:
    properties = {}
    for name, field in section.model_fields.items():
        here = (*where, name)
        form = _form(field.annotation, here, comments)
        if (text := _comment(comments, here)) is not None:
            form = {"description": text} | form
        if (default := _default(field)) is not None:
            form["default"] = default
        properties[name] = form
    made: Form = {"type": "object", "additionalProperties": False, "properties": properties}
    if required := [name for name, field in section.model_fields.items() if field.is_required]:
        made["required"] = required
    return made | _ACROSS.get(section, {})


def _form(annotation: Any, where: Path, comments: Mapping[Path, str]) -> Form:
    """Of the few forms that keys have, as in `schema._value`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return _section(annotation, where, comments)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, mark = arguments
        if isinstance(mark, AfterValidator):
            return _form(inner, where, comments) | _bounds(mark.function)
        return _or_variable(_plain(mark.function))
    if origin in (Union, types.UnionType):
        return _form(next(one for one in arguments if one is not type(None)), where, comments)
    if origin is list:
        return {"type": "array", "items": _form(arguments[0], where, comments)}
    assert origin is dict, f"no JSON Schema for {annotation}"
    return {
        "type": "object",
        "propertyNames": _plain(_validator(arguments[0])),
        "additionalProperties": _form(arguments[1], (*where, "*"), comments),
    }


def _bounds(validator: Callable[..., object]) -> Form:
    """What is said of a list or mapping as a whole."""
    if isinstance(validator, values.Several):
        return {"minItems": validator.low, "maxItems": validator.high, "uniqueItems": True}
    return _BOUNDS[validator]


def _plain(validator: Callable[..., object]) -> Form:
    """The form of one value. KeyError names a validator that has none here: give it one."""
    match validator:
        case values.Whole(low, high):
            return {"type": "integer", "minimum": low, "maximum": high}
        case values.Choice(words):
            return {"enum": list(words)}
        case values.Duration(low_ms):
            return _text_or_0(_DURATION) if low_ms == 0 else _text(f"(?=.*[1-9]){_DURATION}")
        case values.Rate():
            return _text("[0-9]{1,20}/[smh]")
        case values.DurationRange():
            return _text(rf"{_DURATION}\.\.{_DURATION}")
        case values.Size(low):
            return _text_or_0(f"({_SIZE}|0)") if low == 0 else _text(_SIZE)
        case values.Part(_, low):
            size = f"({_SIZE}|0)" if low == 0 else _SIZE
            pattern = f"({_PERCENT}|({_PERCENT} max )?{size})"
            return _text_or_0(pattern) if low == 0 else _text(pattern)
        case addresses.ZmqAddress(transports, bound):
            hosts = rf"(\*|{_HOST})" if bound else _HOST
            forms = {"tcp": f"tcp://{hosts}:{_PORT}", "ipc": r"ipc://[^@*~\x00-\x1f][^\x00-\x1f]*"}
            return _text(f"({'|'.join(forms[transport] for transport in transports)})")
    return _PLAIN[validator]


def _or_variable(form: Form) -> Form:
    """The form, or a text with `${NAME}`: what that says is not known here. In a key there is none."""
    if "enum" in form or "const" in form:
        return {"anyOf": [form, {"type": "string", "pattern": _VARIABLE}]}
    if form.get("type") == "integer":
        return form | {"type": ["integer", "string"], "pattern": _VARIABLE}
    return form | {"pattern": f"{form['pattern']}|{_VARIABLE}"} if "pattern" in form else form


def _text(pattern: str) -> Form:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _text_or_0(pattern: str) -> Form:
    """A text of that form, or the one number that needs no unit."""
    return {"type": ["string", "integer"], "pattern": f"^({pattern}|0)$", "minimum": 0, "maximum": 0}


def _validator(annotation: Any) -> Callable[..., object]:
    """The function in Annotated."""
    function: Callable[..., object] = get_args(annotation)[1].function
    return function


_PLAIN: Final[Mapping[Callable[..., object], Form]] = {
    _validator(values.Name): _text(values.NAME_PATTERN),
    _validator(values.PythonTarget): _text(f"{_DOTTED}:{_DOTTED}") | {"maxLength": limits.TEXT_BYTES_MAX},
    _validator(values.Argv): {
        "type": "array",
        "items": {"type": "string", "maxLength": values.WORD_MAX},
        "prefixItems": [{"type": "string", "minLength": 1, "maxLength": values.WORD_MAX}],
        "minItems": 1,
        "maxItems": values.ARGV_MAX,
    },
    _validator(values.OnlyTrue): {"const": True},
    _validator(values.Group): _text(values.GROUP_PATTERN),
    _validator(addresses.FilePath): _PATH,
    _validator(addresses.HttpUrl): _text(r"https?://[^/?#@\s]+([/?][!\"$-~]*)?") | {"maxLength": addresses.URL_MAX},
    _validator(addresses.HealthPath): _text("/(?!/)[!-~]*") | {"maxLength": addresses.URL_MAX},
    _validator(addresses.HttpListen): _text(rf"http://(\[[0-9A-Fa-f:.%a-z]{{2,64}}\]|[^/?#@:\[\]\s]+):{_PORT}"),
    _validator(routes.RoutesValue): {"anyOf": [_PATH, {"$ref": "#/$defs/routes"}]},
}
_BOUNDS: Final[Mapping[Callable[..., object], Form]] = {
    _validator(RoutesSection.model_fields["kinds"].annotation): {"maxProperties": limits.KINDS_MAX},
    _validator(pipe.SidecarAddresses): {"maxProperties": limits.SIDECARS_MAX},
}
# What several keys of a mapping have to do with each other.
_ACROSS: Final[Mapping[type[Section], Form]] = {
    RepeatSection: {"dependentRequired": {"burst": ["rate"]}},
    HandlerSection: {"minProperties": 1, "maxProperties": 1},
    KindSection: {
        "allOf": [
            {
                "if": {"required": [key]},
                "then": {"properties": {"handler": {"anyOf": [{"required": [name]} for name in handlers]}}},
            }
            for key, handlers in routes.KEYS_OF.items()
        ]
    },
}


def _default(field: FieldInfo) -> Any:
    """What holds when the key is left out, as it is written; None where there is nothing to write."""
    made = field.made_default()
    validator = _validator(field.annotation) if get_origin(field.annotation) is Annotated else None
    match made:
        case None | Section():
            return None
        case addresses.HttpAddress():
            return str(made)
        case Amount():
            return values.part_text(made)
        case tuple():
            return "..".join(map(units.duration_text, made))
        case int() if isinstance(validator, values.Duration):
            return units.duration_text(made)
        case int() if isinstance(validator, values.Size):
            return units.size_text(made) if made else 0
        case _:
            return made


_KEY: Final = re.compile(r"(?P<indent> *)(?:# )?(?P<key>[a-z_-]+):(?: [^#]*)?(?P<mark># )(?P<comment>.*)")
_INNER: Final = re.compile(r"(?P<indent> *)(?P<key>[a-z_-]+):\s*$")


def _comments(file: FileType) -> dict[Path, str]:
    """The comment of each key of the commented file in configs/, by its place in it."""
    found: dict[Path, str] = {}
    stack: list[tuple[int, str]] = []
    column = -1
    here: Path = ()
    for line in resources.config(f"{file}.yaml").read_text(encoding="utf-8").splitlines():
        if here and line[:column].isspace() and line[column : column + 2] == "# ":  # the comment goes on
            found[here] += f" {line[column + 2 :]}"
            continue
        key = _KEY.fullmatch(line) or _INNER.fullmatch(line)
        here = ()
        if key is None:
            continue
        while stack and stack[-1][0] >= len(key["indent"]):
            stack.pop()
        stack.append((len(key["indent"]), key["key"]))
        if key.re is _KEY:
            here = tuple(name for _, name in stack)
            column = key.start("mark")
            found[here] = key["comment"].removesuffix(":")
    return found


def _comment(comments: Mapping[Path, str], where: Path) -> str | None:
    """The comment at a place, in which `*` stands for any name."""
    for place, text in comments.items():
        if len(place) == len(where) and all(step in (name, "*") for step, name in zip(where, place, strict=True)):
            return text
    return None
