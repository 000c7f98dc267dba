"""A hub on loopback that the real clients talk to: repositories of files at one commit each, and faults that are asked for.

    with Hub() as hub:
        hub.add("model", "someone/tiny-bert", {"config.json": b"...", ...})
        hub.faults["model.safetensors"] = ["drop", "500"]     # of the next requests whose path ends so
        hub.served                                            # (method, path) of all that was asked for
    hub.tokens["hf_its"] = "someone"                      # who may put files there, into repositories of that owner
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

SMALL = 1000  # bytes; larger files are the hub's "LFS" ones, known by sha256


class Hub:
    """The server; `endpoint` is what HF_ENDPOINT must say, `role` what its tokens may do."""

    role = "write"

    def __init__(self):
        self.repositories: dict[tuple[str, str], dict[str, bytes]] = {}
        self.faults: dict[str, list[str]] = {}
        self.served: list[tuple[str, str]] = []
        self.tokens: dict[str, str] = {}
        self.private: set[tuple[str, str]] = set()
        self.large: dict[str, bytes] = {}  # by sha256, of those that are put beside a commit
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()

    def add(self, kind: str, name: str, files: dict[str, bytes]) -> str:
        """Adds a repository; returns its commit."""
        self.repositories[kind, name] = files
        return self.commit(kind, name)

    def commit(self, kind: str, name: str) -> str:
        return hashlib.sha1(repr((name, sorted(self.repositories[kind, name].items()))).encode()).hexdigest()

    def downloads(self) -> list[str]:
        """The files that were sent."""
        return [path.rsplit("/", 1)[-1] for method, path in self.served if method == "GET" and "/resolve/" in path]


def _entry(path: str, content: bytes) -> dict:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134} if len(content) > SMALL else None
    return {"path": path, "size": len(content), "blob": blob, "lfs": lfs}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.received()
        self.hub.served.append((self.command, path))
        fault = None
        if self.command != "HEAD":
            fault = next((faults.pop(0) for ending, faults in self.hub.faults.items() if path.endswith(ending) and faults), None)
        if fault in ("401", "403", "404", "500", "503"):
            self.send(int(fault), b'{"error": "as asked for"}', {"X-Error-Code": "RepoNotFound"} if fault in ("401", "404") else {})
        elif self.command == "PUT" or path in ("/api/whoami-v2", "/api/repos/create", "/api/validate-yaml") or \
                self.command == "POST" and any(f"/{what}" in path for what in ("preupload/", "info/lfs/", "commit/")):
            self.write(path)
        elif path.startswith("/api/"):
            self.api(path.removeprefix("/api/"))
        else:
            self.file(path.strip("/"), fault)

    def received(self) -> bytes:
        """The body, in one piece or in chunks, as a client that reads while it sends has it."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def write(self, path: str):
        """What a login may: make a repository, and put files into it, large ones beside the commit that names them."""
        if self.command == "PUT":
            self.hub.large[hashlib.sha256(self.body).hexdigest()] = self.body
            return self.send(200, b"", {})
        if path == "/api/validate-yaml":  # of a card, which the client asks for before it sends one
            _, head, _ = json.loads(self.body)["content"].split("---\n", 2)
            missing = {"license", "pipeline_tag"} - yaml.safe_load(head).keys()
            return self.json({"errors": [{"message": f"no {name}"} for name in sorted(missing)], "warnings": []})
        who = self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if who is None:
            return self.send(401, b'{"error": "Invalid username or password."}', {})
        if path == "/api/whoami-v2":
            return self.json({"type": "user", "name": who, "orgs": [], "auth": {"accessToken": {"role": self.hub.role}}})
        if path == "/api/repos/create":
            asked = json.loads(self.body)
            owner, name = asked.get("organization") or who, asked["name"]
            kind, repo_id = asked.get("type") or "model", f"{owner}/{name}"
            if owner != who:
                return self.send(403, b'{"error": "You don\'t have the rights to create a model under this namespace"}', {})
            if (kind, repo_id) in self.hub.repositories:
                return self.send(409, json.dumps({"error": "it is there", "url": f"{self.hub.endpoint}/{repo_id}"}).encode(), {})
            self.hub.repositories[kind, repo_id] = {}
            self.hub.private |= {(kind, repo_id)} if asked.get("private") or asked.get("visibility") == "private" else set()
            return self.json({"url": f"{self.hub.endpoint}/{repo_id}"})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [one | {"actions": {"upload": {"href": f"{self.hub.endpoint}/large/{one['oid']}"}}}
                       for one in json.loads(self.body)["objects"]]
            return self.json({"transfer": "basic", "objects": objects})
        kind, owner, name, what = path.removeprefix("/api/").split("/")[:4]
        key = kind.removesuffix("s"), f"{owner}/{name}"
        if what == "preupload":
            modes = [{"path": file["path"], "uploadMode": "lfs" if file["size"] > SMALL else "regular", "shouldIgnore": False}
                     for file in json.loads(self.body)["files"]]
            return self.json({"files": modes})
        for line in map(json.loads, self.body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.repositories[key][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repositories[key][value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.commit(*key)
        return self.json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{key[1]}/commit/{commit}",
                          "hookOutput": ""})

    def api(self, path: str):
        kinds, *rest = path.split("/")
        kind, name, rest = kinds.removesuffix("s"), "/".join(rest[:2]), rest[2:]
        files = self.hub.repositories.get((kind, name))
        if files is None:
            return self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        entries = [_entry(path, content) for path, content in sorted(files.items())]
        if rest[:1] in ([], ["revision"]):
            if rest[1:2] not in ([], ["main"], [self.hub.commit(kind, name)]):
                return self.send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": e["path"], "size": e["size"], "blobId": e["blob"]} | ({"lfs": e["lfs"]} if e["lfs"] else {})
                        for e in entries]
            return self.json({"id": name, "sha": self.hub.commit(kind, name), "siblings": siblings, "private": False, "gated": False,
                              "disabled": False, "downloads": 0, "likes": 0, "tags": []})
        listed = [{"type": "file", "path": e["path"], "size": e["size"], "oid": e["blob"]}
                  | ({"lfs": {"oid": e["lfs"]["sha256"], "size": e["size"], "pointerSize": 134}} if e["lfs"] else {}) for e in entries]
        folders = sorted({"/".join(e["path"].split("/")[:depth]) for e in entries for depth in range(1, e["path"].count("/") + 1)})
        listed += [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in folders]
        if rest[0] == "tree":
            under = "/".join(rest[2:])
            deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            inside = [e for e in listed if not under or e["path"].startswith(under + "/")]
            depth = under.count("/") + 1 if under else 0
            return self.json([e for e in inside if deep or e["path"].count("/") == depth])
        if rest[0] == "paths-info":
            body = self.body.decode()
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            return self.json([e for e in listed if e["path"] in wanted])
        return self.send(404, b'{"error": "not here"}', {"X-Error-Code": "EntryNotFound"})

    def file(self, path: str, fault: str | None):
        kind, path = ("dataset", path.removeprefix("datasets/")) if path.startswith("datasets/") else ("model", path)
        parts = path.split("/")
        name, wanted = "/".join(parts[:2]), "/".join(parts[4:])
        files = self.hub.repositories.get((kind, name))
        if files is None or wanted not in files:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound" if files is None else "EntryNotFound"})
        content, entry = files[wanted], _entry(wanted, files[wanted])
        facts = {"X-Repo-Commit": self.hub.commit(kind, name), "ETag": f'"{entry["lfs"]["sha256"] if entry["lfs"] else entry["blob"]}"'}
        if fault == "spoil":
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "drop":  # half of it, and the line goes dead
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            return None
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        return self.send(206 if begin else 200, content[begin:], facts)

    def json(self, content):
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict[str, str]):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
