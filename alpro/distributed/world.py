"""This process's place in the world: joining and leaving it, rank, size and device."""

from __future__ import annotations

import os
import socket
from typing import Any

import torch

from alpro.errors import LaunchError
from alpro.launch import heartbeat, rendezvous
from alpro.launch.proof import NONCE_BYTES, PROOF_BYTES, new_nonce, prove, proves
from alpro.system import hostname, sockets

CPU_CYCLE_MS = "5"

_horovod: Any = None  # horovod.torch once started
_connections: dict[str, int] = {}  # to the other processes: name -> file descriptor


def init() -> None:
    """Join the world that this process was started in. A second call does nothing.

    Raises LaunchError if the world has several processes and Horovod cannot be imported, if this host's own name does
    not resolve, or if a rank is a stranger.
    """
    global _horovod
    if _horovod is not None or not _launched():
        return
    heartbeat.start()
    # Fusion depends on the timing of the ranks and would change the order of summation. Set before Horovod starts.
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    if not torch.cuda.is_available():
        # Horovod's thread wakes this often, and its processes then agree on what is ready: on cores that also compute, the
        # default of 1 ms costs more than the few exchanges of a step that wait for the next cycle.
        os.environ.setdefault("HOROVOD_CYCLE_TIME", CPU_CYCLE_MS)
    try:
        import horovod.torch as horovod
    except ImportError as error:
        raise LaunchError(
            f"a world of {os.environ['HOROVOD_SIZE']} processes needs Horovod, which cannot be imported here ({error}); "
            "`make setup` builds it, or set launch.processes=1"
        ) from None
    if fault := hostname.fault(other_hosts=_environment("HOROVOD_CROSS_SIZE", 1) > 1 and rendezvous.is_remote()):
        raise LaunchError(fault)
    _horovod = horovod
    if (secret := heartbeat.secret()) is not None:
        rendezvous.start_relay(secret)
    _connect()
    if not is_elastic():  # run_elastic does it in every new world
        check_proofs()
    heartbeat.joined()


def _connect() -> None:
    """Connect to the other processes."""
    global _connections
    before = sockets.connections()
    _horovod.init()
    _connections = {name: number for name, number in sockets.connections().items() if name not in before}


def check_proofs() -> None:
    """Have every rank prove to all others that it knows the run's secret. Raises LaunchError, naming a rank that does not.

    Horovod's ports ask for nothing, so a stranger could take a rank's place. Without `alpro launch` there is no secret.
    """
    secret = heartbeat.secret()
    if secret is None or size() == 1:
        return
    nonces = _gather_bytes(new_nonce(), NONCE_BYTES, "nonces")
    proofs = _gather_bytes(prove(secret, "rank", rank(), *nonces), PROOF_BYTES, "proofs")
    strangers = [str(r) for r, proof in enumerate(proofs) if not proves(proof, secret, "rank", r, *nonces)]
    if strangers:
        raise LaunchError(
            f"rank {', '.join(strangers)} does not prove this run's secret: a process that is not of this run has joined; "
            "nothing was exchanged with it. Find out who can reach this host's ports, and start the run again"
        )


def _gather_bytes(data: bytes, length: int, name: str) -> list[bytes]:
    """Return the bytes of all ranks, in rank order. Raises LaunchError if they do not have this length."""
    gathered = _horovod.allgather(torch.tensor(list(data), dtype=torch.uint8), name=f"alpro.{name}")
    if len(gathered) != size() * length:
        raise LaunchError(f"the {name} of the ranks have the wrong length: a process that is not of this run has joined")
    return [bytes(piece.tolist()) for piece in gathered.split(length)]


def shutdown() -> None:
    """Leave the world; afterwards this process is a world of one."""
    global _horovod
    if _horovod is not None:
        _horovod.shutdown()
        _horovod = None
        for name in ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE", "HOROVOD_ELASTIC"):
            os.environ.pop(name, None)


def disconnect() -> None:
    """Close the connections to the other processes, so that ranks waiting for this one notice.

    After a rank is lost, Horovod keeps its connections until all ranks have reconnected. A rank that waits for this one
    rather than for the lost one would notice nothing until Gloo's timeout.
    """
    sockets.close_connections(_connections)


def rejoin() -> None:
    """Leave the world and join its successor, after processes were lost or added."""
    _horovod.shutdown()
    _connect()


def rank() -> int:
    """Return this process's number in the world, over all hosts."""
    return _horovod.rank() if _horovod is not None else _environment("HOROVOD_RANK", 0)


def size() -> int:
    """Return the number of processes in the world."""
    return _horovod.size() if _horovod is not None else _environment("HOROVOD_SIZE", 1)


def local_rank() -> int:
    """Return this process's number on its host. It selects the GPU and nothing else."""
    return _horovod.local_rank() if _horovod is not None else _environment("HOROVOD_LOCAL_RANK", 0)


def local_size() -> int:
    """Return the number of processes of the world on this host."""
    return _horovod.local_size() if _horovod is not None else _environment("HOROVOD_LOCAL_SIZE", 1)


def device() -> torch.device:
    """Return this process's GPU, or the CPU. Raises LaunchError if this host runs more processes than it has GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_size() > (number := torch.cuda.device_count()):
        raise LaunchError(
            f"{local_size()} processes on {socket.gethostname()}, which has {number} GPUs, but each process needs one; "
            "start fewer, or set launch.processes=null for one on each GPU of a machine"
        )
    return torch.device("cuda", local_rank())


def is_elastic() -> bool:
    """Return True if processes of this world may be lost and added (`horovodrun --min-np`)."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def _launched() -> bool:
    return _environment("HOROVOD_SIZE", 1) > 1 or is_elastic()


def _environment(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default


def active_horovod() -> Any:
    """Return `horovod.torch`, started if needed; None in a world of one."""
    if _horovod is None and _launched():
        init()
    return _horovod if _horovod is not None and _horovod.size() > 1 else None
