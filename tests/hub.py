"""A small Hugging Face hub on localhost, for the real client: HF_ENDPOINT points at it.

It speaks what `huggingface_hub` asks of it for a download: the model's info, its tree, HEAD and GET
of a file, with ranges. Source: https://huggingface.co/docs/hub/api
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<part>revision|tree)/(?P<revision>[^/]+))?")
FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class Hub:
    """Serves `repos` (org/repo -> path -> bytes) until the `with` block ends.

    `gated` repos answer only to a token; `revisions` are the names a repo has besides its commit;
    `break_after` bytes of a body the connection is dropped, until it is set back to None.
    """

    def __init__(self, repos: dict[str, dict[str, bytes]], gated: set[str] = frozenset()) -> None:
        self.repos = repos
        self.gated = gated
        self.revisions = {"main", "v1"}
        self.break_after: int | None = None
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
        if not match or match["repo"] not in self.hub.repos:
            self._refuse(404, "RepoNotFound")
        elif match["repo"] in self.hub.gated and not self.headers.get("Authorization"):
            self._refuse(403, "GatedRepo")
        elif match["revision"] not in {None, self.hub.commit(match["repo"]), *self.hub.revisions}:
            self._refuse(404, "RevisionNotFound")
        elif match.re is FILE:
            self._file(match["repo"], match["path"])
        else:
            self._json(self._tree(match["repo"]) if match["part"] == "tree" else self._info(match["repo"]))

    def _info(self, repo: str) -> dict[str, Any]:
        files = [{"rfilename": path, "size": len(body)} for path, body in self.hub.repos[repo].items()]
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
            return self._send(206, body[start:], headers)
        self._send(200, body, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.break_after
        self.wfile.write(body if limit is None else body[:limit])
        if limit is not None and len(body) > limit:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """The test's output is not the place."""
