"""A bucket on this machine: an emulator of Google Cloud Storage that can be stopped and started again."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server

from tests.support.processes import free_port

NAME = "some-bucket"


class Emulator:
    """Serves the files of a folder as the objects of one bucket.

    Attributes:
      files: where those of the bucket lie.
      environment: what makes gcsfs, orbax and tensorstore ask it.
    """

    def __init__(self, folder: Path, port: int):
        self._folder, self._port = folder, port
        self.files = folder / ".cloudstorage" / NAME
        self.environment = environment(port)
        self._server = None

    def start(self) -> None:
        self._server = create_server(
            "127.0.0.1", self._port, data_dir=str(self._folder), default_bucket=NAME
        )
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
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
