"""Proof that a process knows the secret of a run (HMAC-SHA256); the secret itself is never sent to prove it."""

from __future__ import annotations

import hashlib
import hmac
import secrets

NONCE_BYTES = 16
PROOF_BYTES = 32


def new_secret() -> str:
    """Return a new secret: 64 hexadecimal digits."""
    return secrets.token_hex(32)


def new_nonce() -> bytes:
    """Return a random number that a proof must contain, so that an old proof is worthless."""
    return secrets.token_bytes(NONCE_BYTES)


def prove(secret: str, purpose: str, *parts: bytes | str | int) -> bytes:
    """Return a proof for this purpose and these parts (PROOF_BYTES long)."""
    digest = hmac.new(secret.encode(), purpose.encode(), hashlib.sha256)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def proves(proof: object, secret: str, purpose: str, *parts: bytes | str | int) -> bool:
    """Return True if `proof`, bytes or hexadecimal digits from another process, is the one for these parts."""
    expected = prove(secret, purpose, *parts)
    if isinstance(proof, str):
        return hmac.compare_digest(proof.encode(errors="replace"), expected.hex().encode())
    return isinstance(proof, bytes) and hmac.compare_digest(proof, expected)
