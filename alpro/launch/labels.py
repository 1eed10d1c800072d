"""Marks the lines that ranks print with the rank and, in a run on several hosts, with its host."""

from __future__ import annotations

import json

from alpro.launch.diagnosis import Rank
from alpro.terminal import logs


def labelled(text: str, rank: Rank, host: str) -> str:
    """Return a line of a rank with its label. `host` is empty if all ranks run on this machine; rank 0 then has no label.

    A line of JSON gets the fields `rank` and `host` instead, so that it remains one.
    """
    if logs.is_json() and (row := _object(text)) is not None:
        return json.dumps({"rank": rank.number, **({"host": host} if host else {}), **row}) + "\n"
    if host:
        return f"rank {rank.number} ({host}): {text}"
    return text if rank.number == 0 else f"rank {rank.number}: {text}"


def hosts_of_ranks(slots: list[tuple[str, int]]) -> list[str]:
    """Return the host of each rank: Horovod fills the hosts one after the other."""
    return [host for host, number in slots for _ in range(number)]


def _object(text: str) -> dict[str, object] | None:
    if not text.startswith("{"):
        return None
    try:
        row = json.loads(text)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
