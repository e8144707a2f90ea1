"""Checks a mapping of a file against a model and turns its errors into problems with lines."""

from __future__ import annotations

import types
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic_core import ErrorDetails, ValidationError

from mpy6a.config.addresses import Base
from mpy6a.config.problems import Findings, Where, shown
from mpy6a.config.schema import Model
from mpy6a.config.yamlfile import Document


class Section(Model):
    """A mapping with known keys; the description of a required one says what is allowed there."""


AnySection = TypeVar("AnySection", bound=Section)


def validate(
    section: type[AnySection], values: object, document: Document, where: Where, findings: Findings
) -> AnySection | None:
    """The section read from `values` at `where` of the document; None when there are problems."""
    try:
        return section.model_validate(values, context=Base(document.path.parent))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _tell(detail, section, document, where, findings)
        return None


def _tell(detail: ErrorDetails, section: type[Section], document: Document, where: Where, findings: Findings) -> None:
    """Adds one of pydantic's errors as a problem, unless the reader has already refused that place."""
    inner: Where = tuple(detail["loc"])
    kind, value = detail["type"], detail["input"]
    is_key = inner[-1:] == ("[key]",)
    inner = inner[:-1] if is_key else inner
    place = (*where, *inner)
    if findings.bad(document.file, place):
        return
    holder = _type_at(section, inner[:-1])
    on_key = is_key or kind in ("missing", "extra_forbidden") or isinstance(value, dict | list)
    line = document.line(place, key=on_key)
    match kind:
        case "refused":
            context = detail.get("ctx", {})
            found, allowed = context["found"] or shown(value), str(context["allowed"])
            if isinstance(value, str):
                allowed += findings.did_you_mean(value, context["known"])
        case "missing":
            found, allowed = "nothing", _description(holder, inner)
        case "extra_forbidden":
            found = "an unknown key"
            known = list(holder.model_fields)
            allowed = ", ".join(known) + findings.did_you_mean(str(inner[-1]), known)
        case "list_type":
            found, allowed = shown(value), "a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            here = _type_at(section, inner)
            found, allowed = shown(value), f"a mapping{_with_keys(here)}"
        case _:
            found, allowed = shown(value), detail["msg"]
    findings.add(document.file, line, place, found, allowed)


def _type_at(section: Any, inner: Where) -> Any:
    """The type that stands at a place inside a section."""
    here: Any = section
    for step in inner:
        if isinstance(here, type) and issubclass(here, Section):
            field = here.model_fields.get(str(step))
            here = field.annotation if field is not None else None
        else:
            here = get_args(here)[-1] if get_args(here) else None
        here = _bare_type(here)
    return here


def _bare_type(annotation: Any) -> Any:
    """The type without Annotated and `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(choice for choice in get_args(annotation) if choice is not type(None))
        else:
            return annotation


def _description(holder: Any, inner: Where) -> str:
    field = holder.model_fields[str(inner[-1])]
    return f"{field.description} (this key is required)" if field.description else "a value (this key is required)"


def _with_keys(here: Any) -> str:
    if isinstance(here, type) and issubclass(here, Section):
        return f" with the keys {', '.join(here.model_fields)}"
    return " of names to values"
