"""A stand-in of the Hub on loopback: what `huggingface_hub` asks for while it pushes and downloads, kept in memory.

It has the Hub's way of answering: an initial commit with .gitattributes, large files by the LFS batch API, 409 for
what exists, 412 for a parent that is no longer the head, and its error headers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf")
GITATTRIBUTES = b"".join(b"*%s filter=lfs diff=lfs merge=lfs -text\n" % end.encode() for end in LARGE)
TOKEN = "hf_stand_in_token_0123456789"

Files = dict[str, bytes]


@dataclass
class Repository:
    """Branches name commits, commits are whole trees."""

    private: bool | None = None
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Files, message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def files(self, revision: str) -> Files:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Hub:
    """The Hub's state, what it was asked, and how it misbehaves.

    `rejects` maps a pattern of "METHOD path" to the status that it answers with; `spoil` changes a file that is
    committed, as a server would that does not keep what it is sent; `warns` is what it finds odd about a card.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    rejects: dict[str, int] = field(default_factory=dict)
    warns: list[str] = field(default_factory=list)
    spoil: Callable[[str, bytes], bytes | None] | None = None
    before_commit: Callable[[Repository], object] | None = None

    def make(self, name: str, private: bool | None = None) -> Repository:
        repository = self.repositories[name] = Repository(private)
        repository.commit("main", {".gitattributes": GITATTRIBUTES}, "initial commit")
        return repository


@contextmanager
def running() -> Iterator[Hub]:
    """Serve a Hub on a free port of loopback."""
    hub = Hub()

    class Bound(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        asked = f"{self.command} {path}"
        self.state.asked.append(asked)
        try:
            if not path.startswith("/storage/"):  # the address of an upload is its own permission
                self._authorised()
            for pattern, status in self.state.rejects.items():
                if re.search(pattern, asked):
                    raise _Refused(status, message="no, by the test")
            for method, pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    answer(self, body, *found.groups())
                    return
            raise _Refused(404, message=f"the stand-in knows no {asked}")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _authorised(self) -> None:
        token = self.headers.get("Authorization")
        self.state.tokens.add(token)
        if token != f"Bearer {TOKEN}":
            raise _Refused(401, message="Invalid credentials in Authorization header")

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, tree: object) -> None:
        self._send(200, json.dumps(tree).encode())

    def _repository(self, name: str) -> Repository:
        if name not in self.state.repositories:
            raise _Refused(404, "RepoNotFound", "Repository not found")
        return self.state.repositories[name]

    def _files(self, name: str, revision: str) -> Files:
        repository = self._repository(name)
        if revision not in repository.branches.keys() | repository.commits.keys():
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        return repository.files(revision)

    def refs(self, _: bytes, name: str) -> None:
        named = self._repository(name).branches.items()
        branches = [{"name": one, "ref": f"refs/heads/{one}", "targetCommit": oid} for one, oid in named]
        self._json({"branches": branches, "converts": [], "tags": []})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.state.repositories:
            raise _Refused(409, message="You already created this model repo")
        # huggingface_hub 1 says `private`, 2 says `visibility`
        self.state.make(name, wanted.get("visibility", wanted.get("private")) in ("private", True))
        self._json({"url": f"{self.state.url}/{name}", "id": "1"})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        repository = self._repository(name)
        if branch in repository.branches:
            raise _Refused(409, message="Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        self._json({})

    def tree(self, _: bytes, name: str, revision: str) -> None:
        files = self._files(name, revision)
        folders = {path.rpartition("/")[0] for path in files if "/" in path}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": one, "oid": "0" * 40, "size": 0} for one in sorted(folders)
        ]
        entries += [_entry(path, content) for path, content in sorted(files.items())]
        self._json(entries)

    def validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        if not content.startswith("---\n"):
            raise _Refused(400, message="empty or missing yaml metadata")
        self._json({"errors": [], "warnings": [{"message": text} for text in self.state.warns]})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        files = self._files(name, revision)
        answers = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                **({"oid": _entry(one["path"], files[one["path"]])["oid"]} if one["path"] in files else {}),
            }
            for one in json.loads(body)["files"]
        ]
        self._json({"files": answers})

    def batch(self, body: bytes, name: str) -> None:
        self._repository(name)
        objects = []
        for one in json.loads(body)["objects"]:
            answer: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.state.large:
                ways = {"upload": f"/storage/{one['oid']}", "verify": f"/verify/{one['oid']}"}
                answer["actions"] = {way: {"href": self.state.url + path} for way, path in ways.items()}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, message="the content is not what its name says")
        self.state.large[oid] = body
        self._json({})

    def verify(self, body: bytes, oid: str) -> None:
        if len(self.state.large[oid]) != json.loads(body)["size"]:
            raise _Refused(422, message="another size")
        self._json({})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        repository = self._repository(name)
        if self.state.before_commit:
            self.state.before_commit(repository)
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repository.branches[revision]):
            raise _Refused(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repository.files(revision))
        for line in lines[1:]:
            self._apply(files, line["key"], line["value"])
        oid = repository.commit(revision, files, header["summary"])
        self._json({"commitUrl": f"{self.state.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def _apply(self, files: Files, key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "deletedFile":
            del files[path]
            return
        content = base64.b64decode(value["content"]) if key == "file" else self.state.large[value["oid"]]
        kept = self.state.spoil(path, content) if self.state.spoil else content
        if kept is not None:
            files[path] = kept

    def revision(self, _: bytes, name: str, revision: str) -> None:
        files = self._files(name, revision)
        repository = self._repository(name)
        siblings = [{"rfilename": path} for path in files]
        sha = repository.branches.get(revision, revision)
        self._json(
            {"id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": [], "private": True}
        )

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        files = self._files(name, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        facts = _entry(path, files[path])
        etag = facts["lfs"]["oid"] if "lfs" in facts else facts["oid"]
        commit = self._repository(name).branches.get(revision, revision)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        self._send(200, files[path], headers)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    """Describe a file as the tree endpoint does: git's name of the blob, or of the pointer of a large one."""
    facts: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    if not path.endswith(LARGE):
        return {**facts, "oid": _blob(content)}
    sha256 = hashlib.sha256(content).hexdigest()
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
    )
    large = {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}
    return {**facts, "oid": _blob(pointer), "lfs": large}


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", rf"/api/models/{_NAME}/refs", _Handler.refs),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", rf"/api/models/{_NAME}/branch/(.+)", _Handler.branch),
    ("GET", rf"/api/models/{_NAME}/tree/(.+)", _Handler.tree),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/storage/([0-9a-f]{64})", _Handler.store),
    ("POST", r"/verify/([0-9a-f]{64})", _Handler.verify),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    ("GET", rf"/api/models/{_NAME}/revision/(.+)", _Handler.revision),
    ("GET HEAD", rf"/{_NAME}/resolve/([\w.-]+)/(.+)", _Handler.resolve),
)
