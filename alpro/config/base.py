"""alpro/config/base.py: NEW MODULE."""

from __future__ import annotations

from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)

Fraction = float


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation allows, without their bounds."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return {kind for choice in get_args(annotation) for kind in _kinds(choice)}
    return {annotation}


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values can't be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, field: ValidationInfo) -> Any:
        """A switch for a number, or a number in quotes, is a slip. (YAML 1.1 reads 1e-4 as text: floats may be text.)"""
        kinds = _kinds(cls.model_fields[field.field_name or ""].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"must be a number, not {str(value).lower()}")
        if isinstance(value, str) and int in kinds and str not in kinds:
            raise ValueError(f"must be a whole number, not the text {value!r}")
        return value
