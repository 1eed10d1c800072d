"""Creates the buckets of deploy/compose.yaml: `python -m flows.team.buckets ADDRESS`, with AWS's variables."""

from __future__ import annotations

import sys

from flows.team.layout import TeamError
from flows.team.s3 import client_of, create_buckets


def main() -> int:
    """Create the missing buckets; return the exit code."""
    try:
        create_buckets(client_of(sys.argv[1]))
    except TeamError as error:
        print(f"buckets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
