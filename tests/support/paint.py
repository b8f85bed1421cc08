"""A page that is served, and what its tests ask of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading

from jax_bridges.painting import Desk, make_server


@contextlib.contextmanager
def served(restorers, most: int = 10**6):
    """A server of these models on a port of its own."""
    server = make_server(Desk(restorers, most))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server, method: str, name: str, body: bytes | None = None, path: str = "", **headers):
    """(status, headers, content) of a request as the page sends it, but for what is given."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        path = path or f"/{server.token}/{name}"
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def said(answer) -> tuple[int, str]:
    """The status and the sentence of a refusal."""
    return answer[0], json.loads(answer[2])["error"]
