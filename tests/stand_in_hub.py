"""A hub on loopback that the real clients talk to: repositories of files at one commit each, and faults that are asked for.

    with Hub() as hub:
        hub.add("model", "someone/tiny-bert", {"config.json": b"...", ...})
        hub.faults["model.safetensors"] = ["drop", "500"]     # of the next requests whose path ends so
        hub.served                                            # (method, path) of all that was asked for
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

SMALL = 1000  # bytes; larger files are the hub's "LFS" ones, known by sha256


class Hub:
    """The server; `endpoint` is what HF_ENDPOINT must say."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], dict[str, bytes]] = {}
        self.faults: dict[str, list[str]] = {}
        self.served: list[tuple[str, str]] = []
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

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.hub.served.append((self.command, path))
        fault = None
        if self.command != "HEAD":
            fault = next((faults.pop(0) for ending, faults in self.hub.faults.items() if path.endswith(ending) and faults), None)
        if fault in ("401", "403", "404", "500", "503"):
            self.send(int(fault), b'{"error": "as asked for"}', {"X-Error-Code": "RepoNotFound"} if fault in ("401", "404") else {})
        elif path.startswith("/api/"):
            self.api(path.removeprefix("/api/"))
        else:
            self.file(path.strip("/"), fault)

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
            wanted = json.loads(self.body)["paths"] if self.body.startswith("{") else parse_qs(self.body).get("paths", [])
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
