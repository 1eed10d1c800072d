"""For all tests: one thread per process, no telemetry, no network, and `gpu` tests only if there is a GPU."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

# set before any of these libraries is imported; threads of several processes would compete for the cores
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MPLBACKEND": "Agg",
}
gc.set_threshold(100_000)  # as in the command line: the objects of large libraries are not searched again and again
# These files start first: a long one at the end would keep one worker busy while the others have nothing to do.
LONGEST = ("_world.py", "test_distributed.py", "test_goldens.py", "test_resume.py")
LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Make connections to other machines fail, so that no test depends on the network."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOCAL) and address[0] not in OWN:
            raise OSError(f"tests must not use the network: {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


def _own_addresses() -> set[str]:
    """Return this machine's addresses, which Horovod's launcher uses to reach itself."""
    try:
        return {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()


OWN = _own_addresses()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one worker more than there are cores: many tests wait for the start or the end of other processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start with the longest files, and skip tests marked `gpu` if there is no GPU."""
    items.sort(key=lambda item: not item.path.name.endswith(LONGEST))
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]  # keywords have names of folders too
    if not gpu_tests:
        return
    import torch  # only if such a test is selected

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
