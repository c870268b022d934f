"""A small Hugging Face hub on localhost, for the real client: HF_ENDPOINT points at it.

It speaks what `huggingface_hub` asks of it for a download: the model's info, its tree, HEAD and GET
of a file, with ranges. Source: https://huggingface.co/docs/hub/api
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<part>revision|tree)/(?P<revision>[^/]+))?")
GLANCE = 0.02  # seconds between two looks whether a body may go on
FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class Hub:
    """Serves `repos` (org/repo -> path -> bytes) until the `with` block ends.

    `gated` repos give their files only to a token; `revisions` are the names a repo has besides its commit;
    `break_after` bytes of a body the connection is dropped, and after `hold_after` bytes it waits, until
    these are set back to None. `claims` are sizes that the hub gives for files in place of the true ones;
    of repos that are `down` there is no answer.
    """

    def __init__(self, repos: dict[str, dict[str, bytes]], gated: set[str] = frozenset()) -> None:
        self.repos = repos
        self.gated = gated
        self.revisions = {"main", "v1"}
        self.break_after: int | None = None
        self.hold_after: int | None = None
        self.down: set[str] = set()
        self.claims: dict[str, int] = {}
        self.sent: dict[str, int] = {}  # bytes by path
        self.ranges: list[tuple[str, int]] = []  # paths that were asked for from a byte on
        self.requests: list[str] = []  # "GET /path"
        self.tokens: set[str | None] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str) -> str:
        """The 40 digits of a repo's only commit: they follow from its files."""
        digest = hashlib.sha1(repo.encode())
        for path, body in sorted(self.repos[repo].items()):
            digest.update(path.encode() + b"\0" + body)
        return digest.hexdigest()

    def downloaded(self) -> set[str]:
        """The paths of the files that were asked for by GET."""
        gets = (request.removeprefix("GET ") for request in self.requests if request.startswith("GET "))
        return {match["path"] for path in gets if (match := FILE.fullmatch(path))}


def _sibling(path: str, body: bytes, claims: dict[str, int]) -> dict[str, Any]:
    """A file as the hub lists it: large ones are kept apart from git, and have a hash of their own."""
    size = claims.get(path, len(body))
    listed = {"rfilename": path, "size": size, "blobId": _git_hash(body)}
    if path.endswith(".safetensors"):
        listed["lfs"] = {"size": size, "sha256": hashlib.sha256(body).hexdigest(), "pointerSize": 130}
    return listed


def _git_hash(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        match = API.fullmatch(path) or FILE.fullmatch(path)
        if match and match["repo"] in self.hub.down:
            self.close_connection = True
        elif not match or match["repo"] not in self.hub.repos:
            self._refuse(404, "RepoNotFound")
        elif match.re is FILE and match["repo"] in self.hub.gated and not self.headers.get("Authorization"):
            self._refuse(403, "GatedRepo")
        elif match["revision"] not in {None, self.hub.commit(match["repo"]), *self.hub.revisions}:
            self._refuse(404, "RevisionNotFound")
        elif match.re is FILE:
            self._file(match["repo"], match["path"])
        else:
            self._json(self._tree(match["repo"]) if match["part"] == "tree" else self._info(match["repo"]))

    def _info(self, repo: str) -> dict[str, Any]:
        files = [_sibling(path, body, self.hub.claims) for path, body in self.hub.repos[repo].items()]
        return {"id": repo, "modelId": repo, "sha": self.hub.commit(repo), "siblings": files}

    def _tree(self, repo: str) -> list[dict[str, Any]]:
        files = self.hub.repos[repo].items()
        return [
            {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for p, b in files
        ]

    def _file(self, repo: str, path: str) -> None:
        if path not in self.hub.repos[repo]:
            return self._refuse(404, "EntryNotFound")
        body = self.hub.repos[repo][path]
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": self.hub.commit(repo)}
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, total = int(wanted[1]), len(body)
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            self.hub.ranges.append((path, start))
            return self._send(206, body[start:], headers, path)
        self._send(200, body, headers, path)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str], path: str = "") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.break_after
        with suppress(ConnectionError):  # a client that was killed
            for piece in self._pieces(body if limit is None else body[:limit]):
                self.wfile.write(piece)
                self.hub.sent[path] = self.hub.sent.get(path, 0) + len(piece)
        if limit is not None and len(body) > limit:
            self.close_connection = True

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        """The body, as far as it may be sent by now."""
        at = 0
        while at < len(body):
            hold = self.hub.hold_after
            until = len(body) if hold is None else min(hold, len(body))
            if until > at:
                yield body[at:until]
                at = until
            else:
                time.sleep(GLANCE)

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, *args: object) -> None:
        """The test's output is not the place."""
