"""A local double of the HF hub: the routes huggingface_hub 2.4 uses for a snapshot, over real HTTP.

Large files are redirected to another path, as the hub does to its CDN; every request is recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")


class Hub(ThreadingHTTPServer):
    """Repositories in memory: ``add`` one, point HF_ENDPOINT at ``url``, read ``requests``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        # Another host name, as the hub's CDN has: redirects within one host are followed at once.
        self.cdn = f"http://localhost:{self.server_address[1]}/cdn"

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Commit the files as the only content of ``repo``; returns the 40-digit commit hash."""
        content = b"".join(name.encode() + body for name, body in sorted(files.items()))
        revision = hashlib.sha1(content).hexdigest()
        self.repos.setdefault(repo, {})[revision] = files
        return revision

    def blob(self, digest: str) -> bytes | None:
        for files in (files for commits in self.repos.values() for files in commits.values()):
            for body in files.values():
                if hashlib.sha256(body).hexdigest() == digest:
                    return body
        return None


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub on a free port of 127.0.0.1."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    # One request a connection: a kept-alive one would go on being answered after the hub is closed.
    protocol_version = "HTTP/1.0"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) == 6:
            self._api("/".join(parts[2:4]), parts[4], parts[5])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        elif parts[0] == "cdn" and (body := self.server.blob(parts[1])) is not None:
            self._send(200, body, {"ETag": f'"{parts[1]}"'})
        else:
            self._send(404, b"", {})

    def _files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        commits = self.server.repos.get(repo)
        if commits is None or revision not in commits:
            code = "RepoNotFound" if commits is None else "RevisionNotFound"
            self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": code})
            return None
        return commits[revision]

    def _api(self, repo: str, kind: str, revision: str) -> None:
        files = self._files(repo, revision)
        if files is None:
            return
        answer: object = {"id": repo, "sha": revision}
        if kind == "tree":
            answer = [_tree_entry(name, body) for name, body in sorted(files.items())]
        body = json.dumps(answer).encode()
        self._send(200, body, {"Content-Type": "application/json"})

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        files = self._files(repo, revision)
        if files is None:
            return
        commit = {"X-Repo-Commit": revision}
        if name not in files:
            self._send(404, b"", {**commit, "X-Error-Code": "EntryNotFound"})
        elif name.endswith(LARGE):
            digest = hashlib.sha256(files[name]).hexdigest()
            linked = {"X-Linked-Size": str(len(files[name])), "X-Linked-ETag": f'"{digest}"'}
            linked["Location"] = f"{self.server.cdn}/{digest}"
            self._send(302, b"", {**commit, **linked})
        else:
            self._send(200, files[name], {**commit, "ETag": f'"{_git_id(files[name])}"'})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _git_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _tree_entry(name: str, body: bytes) -> dict[str, object]:
    entry = {"type": "file", "oid": _git_id(body), "size": len(body), "path": name}
    if not name.endswith(LARGE):
        return entry
    digest = hashlib.sha256(body).hexdigest()
    return {**entry, "lfs": {"oid": digest, "size": len(body), "pointerSize": 134}}
