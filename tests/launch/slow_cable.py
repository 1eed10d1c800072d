"""A cable that delays and loses frames, for kernels without netem: `python slow_cable.py NEAR FAR DELAY_MS LOSS_PERCENT`.

Makes two TAP devices. Frames that are sent into FAR leave NEAR after the delay, or never; those into NEAR leave FAR at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
LONGEST = 65536


def open_tap(name: str) -> int:
    """Make a TAP device; return its file descriptor."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def send(tap: int, frame: bytes) -> None:
    """Send a frame; one for a device that is down is lost."""
    with contextlib.suppress(OSError):
        os.write(tap, frame)


def main(near_name: str, far_name: str, delay_ms: str, loss_percent: str) -> None:
    """Carry frames for ever."""
    near, far = open_tap(near_name), open_tap(far_name)
    print("ready", flush=True)
    draw, delay_s, loss = random.Random(1), float(delay_ms) / 1000, float(loss_percent) / 100
    waiting: list[tuple[float, int, bytes]] = []
    number = 0
    while True:
        timeout_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([near, far], [], [], timeout_s)
        if near in ready:
            send(far, os.read(near, LONGEST))
        if far in ready:
            frame = os.read(far, LONGEST)
            if draw.random() >= loss:
                number += 1
                heapq.heappush(waiting, (time.monotonic() + delay_s, number, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            send(near, heapq.heappop(waiting)[2])


if __name__ == "__main__":
    main(*sys.argv[1:])
