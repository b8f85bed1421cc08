"""A bucket on this machine: an emulator of Google Cloud Storage that can be stopped and started again."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import threading
import urllib.parse
from pathlib import Path

import pytest
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from tests.support.processes import free_port

NAME = "some-bucket"


class Handler(RequestHandler):
    """Of the emulator, with what it lacks and tensorstore relies on: generations of objects.

    Every object has a number that changes when it is written. It is told with what is read; who has that
    already is not sent it again (304), and who writes on condition of a number is refused (412).
    """

    def _asked(self):
        url = urllib.parse.urlsplit(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        bucket, _, name = url.path.partition("/b/")[2].partition("/o")
        name = urllib.parse.unquote(name[1:]) or query.get("name", "")
        there = self.storage.objects.get(bucket, {}).get(name)
        return query, None if there is None else there["generation"]

    def do_GET(self):
        query, generation = self._asked()
        if generation and query.get("alt") == "media":
            self._generation = generation
            if query.get("ifGenerationNotMatch") == generation:
                self.send_response(304)
                self.end_headers()
                return
        super().do_GET()

    def do_POST(self):
        query, generation = self._asked()
        if query.get("ifGenerationMatch", generation or "0") != (generation or "0"):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(412)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_POST()

    def end_headers(self):
        if hasattr(self, "_generation"):
            self.send_header("x-goog-generation", self._generation)
        super().end_headers()


class Server(http.server.HTTPServer):
    def handle_error(self, request, address):
        """Says nothing of clients that did not wait for their answer."""


class Emulator:
    """Serves the files of a folder as the objects of one bucket.

    Attributes:
      files: where those of the bucket lie.
      environment: what makes gcsfs, orbax and tensorstore ask it.
    """

    def __init__(self, folder: Path, port: int):
        self._storage, self._port = Storage(data_dir=str(folder)), port
        create_bucket(NAME, self._storage)
        self.files = folder / ".cloudstorage" / NAME
        self.environment = environment(port)
        self._server = None

    def start(self) -> None:
        handler = functools.partial(Handler, self._storage)
        self._server = Server(("127.0.0.1", self._port), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def objects(self, under: str = "") -> list[str]:
        found = (p.relative_to(self.files).as_posix() for p in self.files.rglob("*") if p.is_file())
        return sorted(name for name in found if name.startswith(under))


def environment(port: int) -> dict[str, str]:
    address = f"http://127.0.0.1:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
        "GOOGLE_CLOUD_PROJECT": "nothing",
    }


@contextlib.contextmanager
def serving(folder: Path):
    """An emulator that this process, and those that it starts, take for the real one."""
    served = Emulator(folder, free_port())
    served.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in served.environment.items():
            patch.setenv(name, value)
        yield served
        served.stop()


@contextlib.contextmanager
def refusing(port: int, code: int, message: str):
    """A server that answers everything with an error, as the real one writes it."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"error": {"code": code, "message": message}}).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *_):
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
