"""A hub on 127.0.0.1: the part of its protocol that downloads use, and the ways in which it fails.

    HEAD, GET /<owner>/<name>/resolve/<revision>/<file>
        200    with X-Repo-Commit, ETag, Content-Length; small files
        302    to /cdn/… of another host, with X-Linked-Etag and X-Linked-Size; large files
        404    with X-Error-Code RepoNotFound, RevisionNotFound or EntryNotFound
        401, 403 with GatedRepo

Every request is written down in `Hub.requests`. Imports no npvgg.

Source: huggingface.co/docs/hub/api; huggingface_hub `file_download.py`, `utils/_http.py`.
"""

import hashlib
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REFUSALS = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (501, "")}
HOSTILE = ("commit up", "commit none", "etag up", "etag root", "sum wrong", "endless net")
COMMIT = "0123456789abcdef" * 2 + "01234567"


class Hub(ThreadingHTTPServer):
    """A hub with `repositories`: name → {file: bytes}.

    faults: name → how a repository fails      large: the files that another host sends
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.faults, self.large, self.requests = {}, {}, set(), []
        self.outside = ""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub = self.server
        hub.requests.append((self.command, self.path))
        name, place, revision, file = re.fullmatch(
            r"/(?:cdn/)?([^/]+/[^/]+)/(resolve|of)/([^/]+)/(.+)", self.path
        ).groups()
        fault = hub.faults.get(name, "")
        if fault == "silent":
            time.sleep(30)
        if refusal := self.refusal(name, revision, file, fault):
            return self.refuse(*refusal)
        data = hub.repositories[name][file]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        if fault in HOSTILE:
            return self.hostile(fault, data, body, etag)
        if place == "of" or file not in hub.large:
            fault = "" if file == "config.json" else fault
            return self.send(data, body, {} if place == "of" else {"ETag": etag}, fault)
        cdn = hub.url.replace("127.0.0.1", "localhost")
        return self.reply(302, {
            "Location": f"{cdn}/cdn/{name}/of/{revision}/{file}", "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": etag, "X-Linked-Size": len(data), "Content-Length": 0,
        })  # fmt: skip

    def hostile(self, fault, data, body, etag):
        """An answer that names a path, lies about the contents, or has no end."""
        kind, how = fault.split(" ")
        commit = {"up": "../../../x", "none": None}[how] if kind == "commit" else COMMIT
        if kind == "etag":
            etag = {"up": '"../../../../outside"', "root": f'"{self.server.outside}"'}[how]
        headers = {"ETag": f'"{"0" * 64}"' if kind == "sum" else etag}
        headers |= {"X-Repo-Commit": commit} if commit else {}
        if kind != "endless":
            self.reply(200, headers | {"Content-Length": len(data)})
            self.wfile.write(data if body else b"")
            return
        self.reply(200, headers | {"Connection": "close"})
        self.close_connection = True
        while body:  # until the client hangs up
            self.wfile.write(bytes(10**5))

    def refusal(self, name, revision, file, fault):
        """Status and code of the error that a request gets, if it gets one."""
        files = self.server.repositories.get(name)
        if fault in REFUSALS:
            return REFUSALS[fault]
        if files is None:
            return 404, "RepoNotFound"
        if revision not in ("main", "v1", COMMIT):
            return 404, "RevisionNotFound"
        return None if file in files else (404, "EntryNotFound")

    def send(self, data, body, headers, fault):
        length = 5 * 2**30 if fault == "huge" else len(data)
        self.reply(200, {"X-Repo-Commit": COMMIT, "Content-Length": length, **headers})
        if body and fault in ("truncated", "stalled"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            time.sleep(30 if fault == "stalled" else 0)
            self.close_connection = True
        elif body:
            self.wfile.write(data)

    def refuse(self, status, code):
        self.reply(status, {"X-Error-Code": code, "X-Repo-Commit": COMMIT, "Content-Length": 0})

    def reply(self, status, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()


@contextmanager
def running():
    """A hub that runs until the end of the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
