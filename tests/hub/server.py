"""A server on 127.0.0.1 that speaks the part of the Hub's protocol that downloads and uploads use; all is kept in memory.

Downloads: repository info, file tree, HEAD and GET of `resolve` with ETag and X-Repo-Commit. Uploads: create, validation of
the card, preupload, Git LFS (batch, transfer, verify) and commit. A write, and any access to a private repository, needs
the token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_testonly"


def blob_id(content: bytes) -> str:
    """Return git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Commits of one branch, oldest first; each is (hash, files)."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit({".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit with further files and return its hash."""
        all_files = {**(self.commits[-1][1] if self.commits else {}), **files}
        listing = json.dumps({name: blob_id(content) for name, content in sorted(all_files.items())})
        digest = hashlib.sha1(f"{len(self.commits)} {listing}".encode()).hexdigest()
        self.commits.append((digest, all_files))
        return digest

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit of `main` or of a hash; None if there is none."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Hub:
    """The server. `requests` has the method and path of every request, `posted` the body of each commit."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.posted: list[list[dict[str, Any]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Answer HEAD, of files only."""
        self._file()

    def do_GET(self) -> None:
        """Answer GET: the info of a repository, its tree, or a file."""
        parts = self._parts()
        if parts[:2] != ["api", "models"]:
            self._file()
            return
        found = self._repository("/".join(parts[2:4]))
        if found is None:
            return
        revision = parts[5] if len(parts) > 5 else "main"
        commit = found.at(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif parts[4:5] == ["tree"]:
            self._json([self._entry(name, content) for name, content in commit[1].items()])
        else:
            name = "/".join(parts[2:4])
            siblings = [{"rfilename": file} for file in commit[1]]
            self._json({"id": name, "modelId": name, "sha": commit[0], "private": found.private, "siblings": siblings})

    def do_POST(self) -> None:
        """Answer POST: create, validate, preupload, LFS batch and verify, commit."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self._parts()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401, "", "Invalid username or password.")
        elif parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.hub.repositories.setdefault(name, Repository(wanted.get("visibility") == "private"))
            self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif parts == ["api", "validate-yaml"]:
            self._json(
                {
                    "warnings": [],
                    "errors": [] if json.loads(body)["content"].startswith("---\n") else [{"message": "no header"}],
                }
            )
        elif parts[-3:] == ["info", "lfs", "objects"] or parts[-2:] == ["objects", "batch"]:
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/upload/{o['oid']}"}}} for o in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif parts[4:5] == ["preupload"]:
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif parts[4:5] == ["commit"]:
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines() if line])
        else:
            self._error(404, "", f"unknown: {self.path}")

    def do_PUT(self) -> None:
        """Take the bytes of a file in Git LFS."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self._parts()[-1]
        if hashlib.sha256(content).hexdigest() != oid:
            self._error(400, "", "wrong content")
            return
        self.hub.objects[oid] = content
        self._json({})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.hub.objects[line["value"]["oid"]]
        self.hub.posted.append(lines)
        digest = self.hub.repositories[name].commit(files)
        url = f"{self.hub.url}/{name}/commit/{digest}"
        self._json({"success": True, "commitOid": digest, "commitUrl": url, "hookOutput": ""})

    def _file(self) -> None:
        """Answer HEAD or GET of /ORG/NAME/resolve/REVISION/FILE."""
        parts = self._parts()
        found = self._repository("/".join(parts[:2]))
        if found is None:
            return
        commit = found.at(parts[3])
        name = "/".join(parts[4:])
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {parts[3]}")
        elif name not in commit[1]:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit[0]})
        else:
            content = commit[1][name]
            etag = hashlib.sha256(content).hexdigest() if name.endswith(".safetensors") else blob_id(content)
            self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit[0], "Accept-Ranges": "bytes"})

    @staticmethod
    def _entry(name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def _parts(self) -> list[str]:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        return path.strip("/").split("/")

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self._error(401, "RepoNotFound", "Repository not found")
            return None
        return found

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._answer(status, json.dumps({"error": message}).encode(), {**named, "X-Error-Message": message, **(headers or {})})

    def _json(self, content: Any) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
