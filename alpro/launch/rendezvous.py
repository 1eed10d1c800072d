"""The rank's side of Horovod's rendezvous, where ranks publish their addresses: every request carries a proof of the secret.

Horovod's own client cannot sign its requests. It sends them to a port of its own process on the loopback interface, which
answers no other process, and from there they go to the launcher with a proof. The launcher's side is alpro.launch.horovodrun.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from alpro.launch.proof import new_nonce, prove, proves
from alpro.system import sockets

ADDRESS, PORT = "HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"
NONCE_HEADER, DIGEST_HEADER, PROOF_HEADER = "X-Alpro-Nonce", "X-Alpro-Digest", "X-Alpro-Proof"
REQUEST, ANSWER = "rendezvous request", "rendezvous answer"  # what the proofs are for
MAX_BODY_BYTES = 2**24

_relay: Relay | None = None


def start_relay(secret: str) -> None:
    """Have Horovod in this process reach the rendezvous with proofs. A second call does nothing."""
    global _relay
    if _relay is None and ADDRESS in os.environ:
        _relay = Relay((os.environ[ADDRESS], int(os.environ[PORT])), secret)
        os.environ[ADDRESS], os.environ[PORT] = "127.0.0.1", str(_relay.server_address[1])


def digest(body: bytes) -> str:
    """Return the SHA-256 of a request's body, in hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()


def request_headers(secret: str, method: str, path: str, body: bytes, nonce: str) -> dict[str, str]:
    """Return the headers of a request that proves the secret; they can be checked before the body is read."""
    proof = prove(secret, REQUEST, nonce, method, path, len(body), digest(body)).hex()
    return {NONCE_HEADER: nonce, DIGEST_HEADER: digest(body), PROOF_HEADER: proof}


def is_remote() -> bool:
    """Return True if ranks of other hosts can reach the rendezvous, so it is not on the loopback interface."""
    return not os.environ.get(ADDRESS, "127.").startswith("127.")


class Relay(ThreadingHTTPServer):
    """Forwards this process's own requests to the launcher's rendezvous, with proofs in both directions."""

    daemon_threads = True

    def __init__(self, launcher: tuple[str, int], secret: str) -> None:
        super().__init__(("127.0.0.1", 0), _RelayHandler)
        self.launcher, self.secret = launcher, secret
        threading.Thread(target=self.serve_forever, name="rendezvous-relay", daemon=True).start()


class _RelayHandler(BaseHTTPRequestHandler):
    server: Relay

    def do_GET(self) -> None:
        if not sockets.is_own(self.client_address):
            self.send_error(403)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, answer = self._ask_launcher(body)
        except (OSError, http.client.HTTPException):
            self.send_error(502)  # Horovod tries again
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_DELETE = do_GET

    def _ask_launcher(self, body: bytes) -> tuple[int, bytes]:
        secret, nonce = self.server.secret, new_nonce().hex()
        connection = http.client.HTTPConnection(*self.server.launcher)  # without a time limit: some answers wait for all ranks
        try:
            connection.request(self.command, self.path, body, request_headers(secret, self.command, self.path, body, nonce))
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if not proves(response.headers.get(PROOF_HEADER), secret, ANSWER, nonce, response.status, answer):
            raise http.client.HTTPException("the answer is not the launcher's")
        return response.status, answer

    def log_message(self, format: str, *args: object) -> None:
        pass
