"""Show MLflow's pages for this project's runs in a browser: `make ui` (PORT=5001 for another port)."""

from __future__ import annotations

import os
import socket
import sys

from alpro.tracking import store


def main() -> int:
    """Replaces this process by MLflow's server; 1 with one line where that can't be."""
    port = os.environ.get("PORT") or "5000"
    if not port.isdigit() or not 0 < int(port) < 65536:
        print(f"ui: PORT={port} is no port number", file=sys.stderr)
        return 1
    uri = store.store_uri()
    if uri.startswith(("http://", "https://")):
        print(f"ui: the runs are on a server already: {store.shown(uri)}", file=sys.stderr)
        return 1
    if not store.exists(uri):
        print(f"ui: there are no runs yet at {store.shown(uri)}; `make repro` makes some", file=sys.stderr)
        return 1
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError as error:
            print(f"ui: port {port} can't be used ({error.strerror}); choose another: make ui PORT=5001", file=sys.stderr)
            return 1
    print(f"ui: http://127.0.0.1:{port} in a moment; Ctrl-C ends it", flush=True)
    words = ["mlflow", "ui", "--host", "127.0.0.1", "--port", port, "--backend-store-uri", uri]
    os.execv(sys.executable, [sys.executable, "-m", *words])


if __name__ == "__main__":
    sys.exit(main())
