"""This process's place in the world: joining and leaving it, rank, size and device."""

from __future__ import annotations

import os
import socket

import torch

from alpro.distributed.backend import Backend
from alpro.errors import LaunchError
from alpro.launch import heartbeat
from alpro.launch.proof import NONCE_BYTES, PROOF_BYTES, new_nonce, prove, proves
from alpro.system import place, sockets

_backend: Backend | None = None  # once the world is joined
_connections: dict[str, int] = {}  # to the other processes: name -> file descriptor


def init() -> None:
    """Join the world that this process was started in. A second call does nothing.

    Raises LaunchError if the world has several processes and its backend cannot be used here, or if a rank is a stranger.
    """
    global _backend
    if _backend is not None or not _launched():
        return
    heartbeat.start()
    _backend = _new_backend()
    _connect()
    if not is_elastic():  # run_elastic does it in every new world
        check_proofs()
    heartbeat.joined()


def _new_backend() -> Backend:
    """Return the backend that this process's starter asks for; the other one is not imported."""
    own = place.current()
    assert own is not None
    if own.starter == "horovodrun":
        from alpro.distributed.horovod_backend import HorovodBackend

        return HorovodBackend()
    from alpro.distributed.torch_backend import TorchBackend

    return TorchBackend(own)


def _connect() -> None:
    """Connect to the other processes."""
    global _connections
    assert _backend is not None
    _connections = sockets.opened_by(_backend.connect)


def check_proofs() -> None:
    """Have every rank prove to all others that it knows the run's secret. Raises LaunchError, naming a rank that does not.

    The ports of Horovod and torch ask for nothing, so a stranger could take a rank's place. Without `alpro launch` there is
    no secret.
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
    assert _backend is not None
    gathered = _backend.all_gather(torch.tensor(list(data), dtype=torch.uint8), name)
    if len(gathered) != size() * length:
        raise LaunchError(f"the {name} of the ranks have the wrong length: a process that is not of this run has joined")
    return [bytes(piece.tolist()) for piece in gathered.split(length)]


def shutdown() -> None:
    """Leave the world; afterwards this process is a world of one."""
    global _backend
    if _backend is not None:
        _backend.leave()
        _backend = None
        place.forget()


def disconnect() -> None:
    """Close the connections to the other processes, so that ranks waiting for this one notice.

    After a rank is lost, Horovod keeps its connections until all ranks have reconnected. A rank that waits for this one
    rather than for the lost one would notice nothing until Gloo's timeout.
    """
    sockets.close_connections(_connections)


def rejoin() -> None:
    """Leave the world and join its successor, after processes were lost or added."""
    assert _backend is not None
    _backend.leave()
    _connect()


def rank() -> int:
    """Return this process's number in the world, over all hosts."""
    return _place().rank


def size() -> int:
    """Return the number of processes in the world."""
    return _place().size


def local_rank() -> int:
    """Return this process's number on its host. It selects the GPU and nothing else."""
    return _place().local_rank


def local_size() -> int:
    """Return the number of processes of the world on this host."""
    return _place().local_size


def _place() -> Backend | place.Place:
    return _backend or place.current() or place.ALONE


def backend_name() -> str | None:
    """Return the name of the backend, as in `launch.backend`; None in a world of one."""
    backend = active_backend()
    return None if backend is None else backend.name


def device() -> torch.device:
    """Return this process's GPU, or the CPU. Raises LaunchError if this host runs more processes than it has GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, own = torch.cuda.device_count(), place.current() or place.ALONE
    if own.starter == "srun" and number == 1 and local_size() > 1:
        return torch.device("cuda", 0)  # `--gpus-per-task=1` shows each process its own GPU only
    if local_size() > number:
        raise LaunchError(
            f"{local_size()} processes on {socket.gethostname()}, which has {number} GPUs, but each process needs one; "
            "start fewer, or set launch.processes=null for one on each GPU of a machine"
        )
    return torch.device("cuda", local_rank())


def is_elastic() -> bool:
    """Return True if processes of this world may be lost and added (`horovodrun --min-np`)."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def _launched() -> bool:
    own = place.current()
    return own is not None and (own.size > 1 or is_elastic())


def active_backend() -> Backend | None:
    """Return the backend, connected if needed; None in a world of one."""
    if _backend is None and _launched():
        init()
    return _backend if _backend is not None and _backend.size > 1 else None
