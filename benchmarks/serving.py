"""Throughput of `alpro serve`: one client after another request, then many clients at a time, on the same server.

    python -m benchmarks.serving [--clients 32] [--seconds 60] [--json FILE]

Asks the questions of a sample test split on its clips; run it where `make repro` has run. Each phase begins with an unmeasured
warm-up. Prints requests per second, latencies, statuses, requests per batch and the memory of the server, then JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from alpro.files.json_files import write_json

WARM_UP_S = 3.0
BATCH, ASK = "alpro_batch_requests", '{kind="ask"}'
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass
class Phase:
    """Results of one phase."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """Return requests per second, latencies in ms and the statuses."""
        ordered = sorted(self.latencies)
        return {
            "per_second": len(ordered) / self.seconds,
            "p50_ms": 1e3 * ordered[len(ordered) // 2],
            "p95_ms": 1e3 * ordered[int(0.95 * len(ordered))],
            "statuses": dict(self.statuses),
        }


async def client(address: tuple[str, int], requests: list[bytes], start: int, end: float, phase: Phase) -> None:
    """Send one request after another over one connection until the time `end`."""
    reader, writer = await asyncio.open_connection(*address)
    for request in cycle(requests[start:] + requests[:start]):
        began = time.perf_counter()
        if began > end:
            break
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        await reader.readexactly(int(length[1]) if length else 0)
        phase.latencies.append(time.perf_counter() - began)
        phase.statuses[int(head[9:12])] += 1
    writer.close()


async def measure(address: tuple[str, int], requests: list[bytes], clients: int, seconds: float) -> Phase:
    """Run this many clients for some seconds, after a warm-up."""
    for length in (WARM_UP_S, seconds):
        phase, began = Phase(), time.perf_counter()
        step = max(1, len(requests) // clients)
        tasks = (client(address, requests, n * step % len(requests), began + length, phase) for n in range(clients))
        await asyncio.gather(*tasks)
        phase.seconds = time.perf_counter() - began
    return phase


def metrics(url: str) -> dict[str, float]:
    """Return the service's metrics by name."""
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")}


def run(url: str, requests: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Measure both phases on a running service."""
    host, port = url.removeprefix("http://").split(":")
    sequential = asyncio.run(measure((host, int(port)), requests, 1, seconds / 2)).summary()
    before = metrics(url)
    concurrent = asyncio.run(measure((host, int(port)), requests, clients, seconds)).summary()
    after = metrics(url)
    batched, batches = (after[key] - before[key] for key in (f"{BATCH}_sum{ASK}", f"{BATCH}_count{ASK}"))
    return {
        "clients": clients,
        "seconds": seconds,
        "sequential": sequential,
        "concurrent": concurrent,
        "ratio": concurrent["per_second"] / sequential["per_second"],
        "requests_per_batch": batched / batches,
        "memory_mb": [round(state["process_resident_memory_bytes"] / 1e6) for state in (before, after)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--data", type=Path, default=Path("data/sample/msvd_qa"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.data / "txt/test.jsonl").read_text().splitlines()]
    names = {path.stem: path.name for path in (args.data / "videos").iterdir()}
    bodies = [json.dumps({"video": names[row["video_id"]], "question": row["question"]}).encode() for row in rows]
    requests = [
        b"POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in bodies
    ]
    command = [sys.executable, "-m", "alpro", "serve", "--videos", str(args.data / "videos"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = next(line for line in server.stdout if line.startswith("http")).split()[0]
        try:
            while json.load(urllib.request.urlopen(f"{url}/health"))["videos"] is None:  # indexing would be measured as well
                time.sleep(0.5)
            result = run(url, requests, args.clients, args.seconds)
        finally:
            server.terminate()
    for name in ("sequential", "concurrent"):
        phase = result[name]
        latency = f"p50 {phase['p50_ms']:6.1f} ms  p95 {phase['p95_ms']:6.1f} ms"
        print(f"{name:10}  {phase['per_second']:7.0f} requests/s  {latency}  {phase['statuses']}")
    print(
        f"ratio {result['ratio']:.2f}, {result['requests_per_batch']:.1f} requests per batch, memory {result['memory_mb']} MB"
    )
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
