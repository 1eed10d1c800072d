"""Base class of the sections of params.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)

Fraction = float


def _types(annotation: Any) -> set[Any]:
    """Return the types that an annotation allows, without their bounds."""
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return {type_ for choice in get_args(annotation) for type_ in _types(choice)}
    return {annotation}


class Section(BaseModel):
    """Base of every section: unknown keys are refused, and values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _check_type(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse a boolean or quoted text where a number belongs. (YAML 1.1 reads 1e-4 as text, so floats may be text.)"""
        types = _types(cls.model_fields[field.field_name or ""].annotation)
        if isinstance(value, bool) and types & {int, float} and bool not in types:
            raise ValueError(f"must be a number, not {str(value).lower()}")
        if isinstance(value, str) and int in types and str not in types:
            raise ValueError(f"must be a whole number, not the text {value!r}")
        return value
