"""A Hub on the loopback interface, for the real `huggingface_hub` client: repositories, uploads, revisions, downloads.

It speaks the part of the HTTP API that saving and loading models uses, with files of the LFS protocol (Xet is to be
switched off in the client: `HF_HUB_DISABLE_XET=1`), and it can break connections on demand. Everything is in memory;
contents and commits are addressed by their hashes, so that a pinned revision stays what it is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import close_session


LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.png", "*.model")
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "other"}
SECONDS, MAX_REQUESTS = 20, 5000


@dataclass(frozen=True)
class Blob:
    """Content of a file. `oid` is what the Hub knows it by: the hash of git, or SHA-256 for LFS."""

    data: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        if self.is_lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """The line of a listing."""
        line: dict[str, Any] = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.is_lfs:
            line |= {"lfs": {"oid": self.oid, "size": len(self.data), "pointerSize": 134}}
        return line


@dataclass
class Repository:
    """Commits by hash, and branches and pull requests that point to them."""

    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, Blob], message: str) -> str:
        """Makes `files` the content of a branch."""
        tree = sorted((path, blob.oid) for path, blob in files.items())
        oid = hashlib.sha1(json.dumps([self.refs.get(branch), message, tree]).encode()).hexdigest()
        self.commits[oid], self.refs[branch] = files, oid
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str | None:
        """Hash of a branch, a pull request or a hash."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with one request.

    Args:
        pattern: of its "METHOD /path".
        outcomes: an HTTP status for it, and for each time that it is tried again; 0 is a connection that breaks after
            half of the body.
        skip: requests of this pattern that pass before it.
    """

    pattern: str
    outcomes: list[int]
    skip: int = 0
    line: str | None = None

    def meets(self, line: str) -> int | None:
        """What happens to this request; `None`: nothing."""
        if not self.outcomes or not (line == self.line if self.line else re.search(self.pattern, line)):
            return None
        if self.skip:
            self.skip -= 1
            return None
        self.line = line
        return self.outcomes.pop(0)


class _Listener(ThreadingHTTPServer):
    """One port of the loopback interface."""

    daemon_threads = True

    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.url = hub, f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no reason to print a traceback."""

    def stop(self) -> None:
        """Closes the port."""
        self.shutdown()
        self.server_close()
        self.thread.join(SECONDS)


class HubServer:
    """The Hub, and the storage that it keeps large files in: two ports. Runs inside a `with` block.

    Attributes:
        url, token: what HF_ENDPOINT and HF_TOKEN of the client are set to; the token belongs to `user`.
        repositories: by name, "user/name".
        objects: finished LFS uploads by SHA-256.
        requests: "METHOD /path" of all that came.
        faults: what shall go wrong.
        part_size: LFS files above this many bytes are uploaded in parts; `None` for never.
    """

    def __init__(self, user: str = "user", part_size: int | None = None) -> None:
        self.user, self.token = user, "hf_loopback"
        self.api, self.storage = _Listener(self), _Listener(self)
        self.url = self.api.url
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.part_size = part_size
        self.lock = threading.RLock()

    def __enter__(self) -> HubServer:
        self.api.thread.start()
        self.storage.thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.api.stop()
        self.storage.stop()

    def environment(self) -> dict[str, str]:
        """Variables that make a process use this Hub, with the rights of `user`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def connect(self, monkeypatch: Any) -> None:
        """Makes this process use this Hub until `monkeypatch` is undone: the variables above are read at import."""
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)
        for name, value in {"ENDPOINT": self.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", self.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        close_session()  # a former one may have read other variables

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Content of a repository; empty where nothing was committed yet."""
        repository = self.repositories[name]
        commit = repository.resolve(revision)
        return {path: blob.data for path, blob in repository.commits.get(commit, {}).items()}

    def outcome(self, line: str) -> int | None:
        """Notes a request, and says what goes wrong with it."""
        with self.lock:
            self.requests.append(line)
            if len(self.requests) > MAX_REQUESTS:
                return 403
            met = (fault.meets(line) for fault in self.faults)
            return next((outcome for outcome in met if outcome is not None), None)


class Answer(Exception):
    """Ends the treatment of a request with a response."""

    def __init__(self, status: int, body: Any = None, code: str | None = None, **headers: str) -> None:
        super().__init__(status)
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if code:
            self.headers["X-Error-Code"] = code


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    timeout = SECONDS

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def log_message(self, *args: Any) -> None:
        """Nothing on the screen."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        outcome = self.hub.outcome(f"{self.command} {parts.path}")
        if outcome == 0:
            self._break()
            return
        body = self._read_body()
        try:
            if outcome is not None:
                raise Answer(outcome, {"error": "refused by the test"})
            # Branches may hold slashes: they are quoted, and names are split before that is undone.
            with self.hub.lock:
                self._route([unquote(part) for part in parts.path.split("/")[1:]], body)
            raise Answer(404, {"error": f"nothing at {self.path}"})
        except Answer as answer:
            self._send(answer)

    def _break(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
        # A reset instead of an orderly end: what a cut line looks like.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, answer: Answer) -> None:
        is_bytes = isinstance(answer.body, bytes)
        body = answer.body if is_bytes else json.dumps(answer.body if answer.body is not None else {}).encode()
        self.send_response(answer.status)
        headers = {"Content-Type": "application/octet-stream" if is_bytes else "application/json", **answer.headers}
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # -- who asks for what

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _need_token(self) -> None:
        if not self._is_known():
            raise Answer(401, {"error": "Invalid username or password."})

    def _route(self, path: list[str], body: bytes) -> None:
        match self.command, path:
            case "GET", ["api", "whoami-v2"]:
                self._need_token()
                raise Answer(200, {"type": "user", "name": self.hub.user, "orgs": []})
            case "POST", ["api", "repos", "create"]:
                self._create(json.loads(body))
            case "POST", ["api", "validate-yaml"]:
                self._validate(json.loads(body)["content"])
            case _, ["api", "models", owner, name, *rest]:
                self._api(f"{owner}/{name}", rest, body)
            case "POST", [owner, name, "info", "lfs", "objects", "batch"]:
                self._need_token()
                self._batch(self._repository(f"{owner}/{name.removesuffix('.git')}"), json.loads(body))
            case "GET" | "HEAD", [owner, name, "resolve", revision, *file]:
                self._download(f"{owner}/{name}", revision, "/".join(file))
            case "GET" | "HEAD", ["lfs", oid]:
                self._send_range(self.hub.objects[oid], ETag=f'"{oid}"')
            case (("PUT" | "POST"), ["lfs", oid, *step]):
                self._upload(oid, step, body)

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._is_known()):
            # As the Hub does: who may not see a repository is not told whether it exists.
            status = 404 if self._is_known() else 401
            raise Answer(status, {"error": "Repository not found"}, "RepoNotFound")
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.resolve(revision)
        if commit is None:
            raise Answer(404, {"error": f"Invalid rev id: {revision}"}, "RevisionNotFound")
        return commit

    def _create(self, request: dict[str, Any]) -> None:
        self._need_token()
        owner = request.get("organization") or self.hub.user
        if owner != self.hub.user:
            raise Answer(403, {"error": f"You don't have the rights to create a model under {owner!r}"})
        name = f"{owner}/{request['name']}"
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repositories:
            raise Answer(409, {"error": "You already created this model repo", **answer})
        repository = Repository(private=request.get("visibility") == "private")
        repository.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}, "initial commit")
        self.hub.repositories[name] = repository
        raise Answer(200, answer)

    @staticmethod
    def _validate(content: str) -> None:
        errors, metadata = [], {}
        block = re.match(r"---\n(.*?)\n---\n", content, re.S)
        try:
            metadata = (yaml.safe_load(block[1]) if block else None) or {}
        except yaml.YAMLError as error:
            errors.append({"message": str(error)})
        if metadata.get("license", "other") not in LICENCES:
            errors.append({"message": f'"license" must be one of {sorted(LICENCES)}'})
        for key in ("tags", "datasets", "base_model", "language"):
            values = metadata.get(key) or []
            if not all(isinstance(value, str) for value in ([values] if isinstance(values, str) else values)):
                errors.append({"message": f'"{key}" must hold strings'})
        raise Answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _api(self, name: str, rest: list[str], body: bytes) -> None:
        repository = self._repository(name)
        if self.command == "POST" and rest[0] != "paths-info":
            self._need_token()
        match self.command, rest:
            case "GET", [] | ["revision", _]:
                commit = self._commit(repository, rest[1] if rest else "main")
                siblings = [{"rfilename": path} for path in repository.commits[commit]]
                info = {"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings}
                raise Answer(200, info)
            case "GET", ["refs"]:
                refs = [
                    {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": commit}
                    for ref, commit in repository.refs.items()
                ]
                raise Answer(200, {"branches": refs, "tags": [], "converts": []})
            case "POST", ["branch", branch]:
                if branch in repository.refs:
                    raise Answer(409, {"error": f"Reference {branch} already exists"})
                start = json.loads(body or b"{}").get("startingPoint", "main")
                repository.refs[branch] = self._commit(repository, start)
                raise Answer(200)
            case "GET", ["tree", revision, *folder]:
                raise Answer(200, self._tree(repository, revision, "/".join(folder)))
            case "POST", ["paths-info", revision]:
                files = repository.commits[self._commit(repository, revision)]
                paths = parse_qs(body.decode()).get("paths", [])
                raise Answer(200, [files[path].entry(path) for path in paths if path in files])
            case "POST", ["preupload", revision]:
                raise Answer(200, {"files": self._modes(repository, revision, json.loads(body)["files"])})
            case "POST", ["commit", revision]:
                self._change(name, repository, revision, [json.loads(line) for line in body.splitlines()])

    def _tree(self, repository: Repository, revision: str, folder: str) -> list[dict[str, Any]]:
        files = repository.commits[self._commit(repository, revision)]
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise Answer(404, {"error": f"{folder} does not exist"}, "EntryNotFound")
        deep = self.query.get("recursive", "").lower() == "true"
        lines = [blob.entry(path) for path, blob in inside.items() if deep or "/" not in path[len(prefix) :]]
        folders = {prefix + path[len(prefix) :].split("/")[0] for path in inside if "/" in path[len(prefix) :]}
        return lines + [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]

    # -- uploads

    def _modes(self, repository: Repository, revision: str, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        known = repository.commits[self._commit(repository, revision)]
        lines = []
        for file in files:
            path = file["path"]
            is_lfs = file["size"] > 10 * 2**20 or any(fnmatch(path, pattern) for pattern in LFS_PATTERNS)
            line = {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            lines.append({**line, "oid": known[path].oid} if path in known else line)
        return lines

    def _batch(self, repository: Repository, request: dict[str, Any]) -> None:
        objects = []
        for item in request["objects"]:
            oid, size = item["oid"], item["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                href, storage = f"{self.hub.url}/lfs/{oid}", f"{self.hub.storage.url}/lfs/{oid}"
                upload: dict[str, Any] = {"href": storage}
                if self.hub.part_size and size > self.hub.part_size:
                    count = -(-size // self.hub.part_size)
                    parts = {str(i): f"{storage}/part/{i}" for i in range(1, count + 1)}
                    upload = {
                        "href": f"{href}/complete",
                        "header": {"chunk_size": str(self.hub.part_size), **parts},
                    }
                entry["actions"] = {"upload": upload, "verify": {"href": f"{href}/verify"}}
            objects.append(entry)
        raise Answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def _upload(self, oid: str, step: list[str], body: bytes) -> None:
        match step:
            case ["part", number]:
                self.hub.parts[oid, int(number)] = body
                raise Answer(200, ETag=f'"{hashlib.sha256(body).hexdigest()}"')
            case ["verify"]:
                raise Answer(200 if oid in self.hub.objects else 404)
            case ["complete"]:
                body = b"".join(self.hub.parts.pop((oid, part["partNumber"])) for part in json.loads(body)["parts"])
        if hashlib.sha256(body).hexdigest() != oid:
            raise Answer(400, {"error": "the content is not what its hash says"})
        self.hub.objects[oid] = body
        raise Answer(200)

    def _change(self, name: str, repository: Repository, revision: str, lines: list[dict[str, Any]]) -> None:
        files = dict(repository.commits[self._commit(repository, revision)])
        message = ""
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        raise Answer(400, {"error": f"{value['path']} was not uploaded"})
                    files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
                case "deletedFile":
                    files.pop(value["path"])
        branch, answer = revision, {}
        if "create_pr" in self.query:
            branch = f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in repository.refs)}"
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{branch.rsplit('/', 1)[1]}"
            repository.refs[branch] = repository.refs[revision]
        commit = repository.commit(branch, files, message)
        raise Answer(200, {**answer, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})

    # -- downloads

    def _download(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        commit = self._commit(repository, revision)
        blob = repository.commits[commit].get(path)
        if blob is None:
            raise Answer(404, {"error": "Entry not found"}, "EntryNotFound", X_Repo_Commit=commit)
        if not blob.is_lfs:
            self._send_range(blob.data, ETag=f'"{blob.oid}"', X_Repo_Commit=commit)
        raise Answer(
            302,
            Location=f"{self.hub.storage.url}/lfs/{blob.oid}",
            X_Repo_Commit=commit,
            X_Linked_Etag=f'"{blob.oid}"',
            X_Linked_Size=str(len(blob.data)),
        )

    def _send_range(self, data: bytes, **headers: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            raise Answer(200, data, Accept_Ranges="bytes", **headers)
        start, end = int(wanted[1]), int(wanted[2] or len(data) - 1) + 1
        raise Answer(206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}", **headers)
