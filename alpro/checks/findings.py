"""One result of `alpro doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
ANSWER_S = 60  # seconds that a program may take to answer


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `remedy` says what to do if `status` is not ok."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
