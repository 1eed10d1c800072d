"""A test rank: HOW selects normal behaviour or a fault on the last rank, which then creates FILE."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from alpro import distributed
from alpro.launch import heartbeat

BAD_STEP = 20
LATE_S = 10  # as for a large snapshot


def main(behaviour: str, fault_file: str = os.devnull) -> None:
    """Do steps with one collective each; most behaviours never end by themselves."""
    if behaviour == "aborts" and distributed.rank() == 1:
        Path(fault_file).touch()
        os.environ |= {"HOROVOD_GLOO_IFACE": "nosuch0", "GLOO_SOCKET_IFNAME": "nosuch0"}
    distributed.init()
    last = distributed.rank() == distributed.size() - 1
    heartbeat.stoppable(behaviour in ("stoppable", "late", "deaf"))
    step = 0
    while not (behaviour == "well" and step == BAD_STEP):
        step += 1
        total = BAD_STEP if behaviour == "well" else None
        heartbeat.beat("computing", step, total)
        if last and step == BAD_STEP:
            Path(fault_file).touch()
            if behaviour == "raises":
                raise ValueError("an unexpected fault")
            if behaviour == "exits":
                print("alpro: a fault that the package reports", file=sys.stderr)
                sys.exit(2)
            if behaviour == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if behaviour == "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
            if behaviour == "stalls":
                signal.pause()
        heartbeat.beat(
            "exchange", step, total
        )  # as in training: a stalled rank has sent fewer heartbeats than the waiting ones
        if distributed.any_true(heartbeat.stop_asked()) and behaviour != "deaf":
            time.sleep(LATE_S if behaviour == "late" else 0)
            break
        if step == BAD_STEP and distributed.rank() == 0:
            print("well under way", flush=True)
        time.sleep(0.01)
    print(f"ended at step {step}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
