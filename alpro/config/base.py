"""Base class of the sections of params.yaml."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)

from alpro.files.names import shown, text_fault

Fraction = float
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
FORBIDDEN_IN_PATHS = re.compile(r"^-|[\x00-\x1f\x7f]|\$\{")
INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,14}")  # Linux allows 15 characters
HOSTS = re.compile(r"[A-Za-z0-9_][\w.-]*:[0-9]+(,[A-Za-z0-9_][\w.-]*:[0-9]+)*")


def _check_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a valid name: use letters, digits, `_` and `-`, but no `-` at the beginning")
    return value


def _check_location(value: str) -> str:
    if value.startswith("~"):
        raise ValueError(f"{value!r}: DVC does not expand `~` in parameters; write {os.path.expanduser(value)}")
    if fault := text_fault(value):
        raise ValueError(f"'{shown(value)}' {fault}")
    return value


def _check_path(value: str) -> str:
    _check_location(value)
    if not value or FORBIDDEN_IN_PATHS.search(value):
        raise ValueError(
            f"{value!r} is not a valid path: it must not be empty, begin with `-`, or contain `${{` or control characters; "
            "rename the folder, or link to it"
        )
    return value


def _check_hosts(value: str) -> str:
    if not HOSTS.fullmatch(value):
        raise ValueError(f"{value!r} is not a list of hosts: write `name:slots,name:slots`, without spaces")
    return value


def _check_interface(value: str) -> str:
    try:
        if "/" in value:  # an address with its prefix, as `ip address` prints it, stands for its network
            return str(ipaddress.IPv4Network(value, strict=False))
        return _check_interface_name(value)
    except ValueError as error:
        raise ValueError(
            f"{value!r} is not a network interface ({error}): write a name, `eth1`, or an IPv4 network, `10.1.0.0/16`"
        ) from None


def _check_interface_name(value: str) -> str:
    if not INTERFACE.fullmatch(value):
        raise ValueError("up to 15 letters, digits and `_.:@-`")
    return value


def _check_key_file(value: str) -> str:
    if "%" in _check_path(value):
        raise ValueError(f"{value!r} is not a valid path of a key: ssh replaces `%` in it; rename the file, or link to it")
    return value


# DVC makes stage names and output folders of names. A path is a dependency of a stage, so DVC must be able to read it. Hosts
# become part of the ssh commands that the launcher starts, as does the file with a private key.
Name = Annotated[str, AfterValidator(_check_name)]
FilePath = Annotated[str, AfterValidator(_check_path)]
Hosts = Annotated[str, AfterValidator(_check_hosts)]
Interface = Annotated[str, AfterValidator(_check_interface)]
KeyFile = Annotated[str, AfterValidator(_check_key_file)]
Location = Annotated[str, AfterValidator(_check_location)]  # of a file or folder


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
