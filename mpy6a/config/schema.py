"""Classes of typed keys, checked by the core of pydantic: as much of its models as a configuration needs.

The names, the rules and the errors are pydantic's, and what validates is its compiled `pydantic_core`. What is left
out is its front end, which takes a third of a pipe's start to import and to build its models: the schema of a class
is put together here, and only when something is validated against it.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from inspect import get_annotations
from typing import Annotated, Any, ClassVar, Final, Self, Union, get_args, get_origin, get_type_hints

from pydantic_core import SchemaValidator, core_schema

_NOTHING: Final = object()  # a key without a default
_CONFIG: Final = core_schema.CoreConfig(extra_fields_behavior="forbid", strict=True, hide_input_in_errors=True)


class PlainValidator:
    """In Annotated: what the function returns is the value; with `info` it is told the context too."""

    __slots__ = ("function", "info")

    def __init__(self, function: Callable[..., object], *, info: bool = False) -> None:
        self.function = function
        self.info = info


class AfterValidator:
    """In Annotated: the function gets the value that the type before it made."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function


@dataclass(slots=True)
class FieldInfo:
    """A key of a model. `description` says what is allowed where it is required."""

    description: str | None = None
    default: object = _NOTHING
    default_factory: Callable[[], object] | None = None
    annotation: Any = None

    @property
    def is_required(self) -> bool:
        return self.default is _NOTHING and self.default_factory is None

    def made_default(self) -> object:
        """What the key has when it is left out; None for a required one."""
        if self.default_factory is not None:
            return self.default_factory()
        return None if self.default is _NOTHING else self.default


def Field(*, description: str | None = None, default_factory: Callable[[], object] | None = None) -> Any:
    """What a key's annotation does not say, in the place of its default."""
    return FieldInfo(description, default_factory=default_factory)


class Model:
    """A mapping with known keys. Strict; the values of an instance are the attributes of its keys."""

    __slots__ = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")  # the core's
    __pydantic_fields_set__: set[str]
    model_fields: ClassVar[dict[str, FieldInfo]] = {}
    _validator: ClassVar[SchemaValidator | None] = None

    def __init_subclass__(cls) -> None:
        cls.model_fields = {}
        hints = get_type_hints(cls, include_extras=True)
        for name in get_annotations(cls):
            given = cls.__dict__.get(name, _NOTHING)
            field = given if isinstance(given, FieldInfo) else FieldInfo(default=given)
            field.annotation = hints[name]
            cls.model_fields[name] = field

    def __init__(self) -> None:
        """All defaults."""
        self._core().validate_python({}, self_instance=self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # as of every class that compares by value

    @classmethod
    def model_validate(cls, values: object, *, context: object = None) -> Self:
        """An instance of what the mapping says; raises pydantic_core.ValidationError with all that is wrong."""
        made: Self = cls._core().validate_python(values, context=context)
        return made

    @property
    def model_fields_set(self) -> set[str]:
        """The keys that were there, not left to their defaults."""
        return self.__pydantic_fields_set__

    def model_check(self) -> None:
        """Refuses what only several keys together show; called once each of them is fine."""

    @classmethod
    def _core(cls) -> SchemaValidator:
        if "_validator" not in cls.__dict__ or cls._validator is None:
            cls._validator = SchemaValidator(_model(cls), _CONFIG)
        return cls._validator


def _model(cls: type[Model]) -> core_schema.CoreSchema:
    fields = {name: core_schema.model_field(_key(field)) for name, field in cls.model_fields.items()}
    inner = core_schema.model_fields_schema(fields, model_name=cls.__name__)
    schema = core_schema.model_schema(cls, inner, config=_CONFIG)
    if cls.model_check is Model.model_check:
        return schema
    return core_schema.no_info_after_validator_function(_checked, schema)


def _checked(made: Model) -> Model:
    made.model_check()
    return made


def _key(field: FieldInfo) -> core_schema.CoreSchema:
    schema = _value(field.annotation)
    if field.default_factory is not None:
        return core_schema.with_default_schema(schema, default_factory=field.default_factory)
    if field.default is not _NOTHING:
        return core_schema.with_default_schema(schema, default=field.default)
    return schema


def _value(annotation: Any) -> core_schema.CoreSchema:
    """The schema of the few forms that keys have: Annotated, `X | None`, list, dict and models."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return _model(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, mark = arguments
        if isinstance(mark, AfterValidator):
            return core_schema.no_info_after_validator_function(mark.function, _value(inner))
        if mark.info:
            return core_schema.with_info_plain_validator_function(mark.function)
        return core_schema.no_info_plain_validator_function(mark.function)
    if origin in (Union, types.UnionType):
        return core_schema.nullable_schema(_value(next(one for one in arguments if one is not type(None))))
    if origin is list:
        return core_schema.list_schema(_value(arguments[0]), strict=True)
    assert origin is dict, f"no schema for {annotation}"
    return core_schema.dict_schema(_value(arguments[0]), _value(arguments[1]), strict=True)
