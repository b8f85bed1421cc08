"""The page's server: this machine alone, a secret address, and no other site's requests.

It listens on 127.0.0.1. Every address begins with a random token, so that only who has seen what the
command printed gets an answer; a name that another site has pointed at this machine is refused by its
Host, and a request that another site has sent by its Origin.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from jax_bridges.data.errors import BadImage
from jax_bridges.painting.desk import Desk, Gone
from jax_bridges.painting.page import build_page, policy

ADDRESS = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_SENTENCE = "application/json"
_PATIENCE = 120  # seconds that a browser may say nothing in the middle of a request


class Server(ThreadingHTTPServer):
    """Serves one desk; `address` is what to open."""

    daemon_threads = True

    def __init__(self, desk: Desk, port: int):
        super().__init__((ADDRESS, port), _Handler)
        self.desk, self.token = desk, secrets.token_urlsafe(24)
        self.most_bytes = 8 * desk.most + 1_000_000  # 16 bits, four channels, and not compressed
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}
        self.address = f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error; anything else is the library's."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def make_server(desk: Desk, port: int = 0) -> Server:
    """A server that listens already and answers once `serve_forever` runs.

    Args:
      port: 0: any that is free.

    Raises OSError: the port is taken, or may not be used.
    """
    return Server(desk, port)


class _Refused(Exception):
    """A request that gets no answer but a status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "jax_bridges", ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        self._answer({"": self._page, "picture": self._view, "answer": self._part,
                      "download": self._download})  # fmt: skip

    def do_POST(self) -> None:
        self._answer({"picture": self._open, "answers": self._restore, "keep": self._keep,
                      "transparent": self._transparent})  # fmt: skip

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: addresses hold the token."""

    # -- what all have in common -----------------------------------------------------------------------
    def _answer(self, able: dict[str, Any]) -> None:
        self._begun = False
        try:
            name, asked = self._check()
            if name not in able:
                raise _Refused(404, "There is no such page.")
            self.asked = asked
            able[name]()
        except _Refused as error:
            self._refuse(error.status, str(error))
        except Gone as error:
            self._refuse(410, str(error.args[0]))
        except (BadImage, ValueError) as error:
            self._refuse(400, _as_sentence(error))
        except OSError:  # the browser has gone
            raise
        except Exception as error:
            self._refuse(500, f"This failed: {_as_sentence(error)}")
            raise

    def _check(self) -> tuple[str, dict[str, str]]:
        """The last part of the address, and its query; `_Refused` unless the page itself sends this."""
        headers = self.headers
        if headers.get("Host", "") not in self.server.hosts:
            raise _Refused(403, "This page answers under its own address alone.")
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site", "none")
        ours = {f"http://{host}" for host in self.server.hosts}
        parts = urlsplit(self.path)
        token, slash, name = parts.path.removeprefix("/").partition("/")
        # The page itself may be come to by a link, as terminals in a browser make one of the address.
        sites = ("same-origin", "none") if name else (site,)
        if (origin is not None and origin not in ours) or site not in sites:
            raise _Refused(403, "This page answers no other site's requests.")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()) or not slash:
            raise _Refused(404, "Open the address that the command has printed.")
        return name, {key: values[-1] for key, values in parse_qs(parts.query).items()}

    def _number(self, name: str, least: int = 0) -> int:
        try:
            number = int(self.asked[name])
        except (KeyError, ValueError):
            raise _Refused(400, f"The request lacks a number, {name}.") from None
        if number < least:
            raise _Refused(400, f"The request's {name} is {number}, and must be at least {least}.")
        return number

    def _key(self) -> str:
        return self.asked.get("id", "")

    def _body(self) -> bytes:
        """What was sent, whole; `_Refused` before a byte of it is read, if it is too much."""
        try:
            length = int(self.headers.get("Content-Length", ""))
            if length < 0:
                raise ValueError
        except ValueError:
            raise _Refused(411, "The request does not say how long it is.") from None
        if length > self.server.most_bytes:
            raise _Refused(413, f"This file has {length / 1e6:.0f} MB, more than this page takes.")
        data = self.rfile.read(length)
        if len(data) < length:
            raise _Refused(400, "The file has not arrived whole.")
        return data

    def _start(self, kind: str, length: int | None, further: dict[str, str], status=200) -> None:
        self._begun = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in (_HEADERS | further).items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, data: bytes, kind: str, further: dict[str, str] | None = None, status=200):
        self._start(kind, len(data), further or {}, status)
        self.wfile.write(data)

    def _refuse(self, status: int, sentence: str) -> None:
        """The sentence, as an answer of its own or at the end of one that has begun."""
        data = json.dumps({"error": sentence}).encode()
        if self._begun:
            self.wfile.write(data + b"\n")
            return
        self.close_connection = True  # what was sent may not have been read
        self._send(data, _SENTENCE, status=status)

    # -- pages -----------------------------------------------------------------------------------------
    def _page(self) -> None:
        nonce, desk = secrets.token_urlsafe(16), self.server.desk
        page = build_page(desk.tabs, self.server.most_bytes, nonce)
        further = {"Content-Security-Policy": policy(nonce)}
        self._send(page.encode(), "text/html; charset=utf-8", further)

    def _open(self) -> None:
        known = self.server.desk.open(self._body(), self.asked.get("name", ""))
        self._send(json.dumps(known).encode(), _SENTENCE)

    def _view(self) -> None:
        self._send(*self.server.desk.view(self._key()))

    def _transparent(self) -> None:
        self._send(self.server.desk.transparent(self._key()), "image/png")

    def _keep(self) -> None:
        known = self.server.desk.keep(self._key(), self._number("number"))
        self._send(json.dumps(known).encode(), _SENTENCE)

    def _restore(self) -> None:
        """What happens, one JSON object a line, until the connection ends."""
        body = self._body()
        painted = (body, self._number("left"), self._number("top")) if body else None

        def tell(event: dict[str, Any]) -> None:
            if not self._begun:
                self._start("application/x-ndjson", None, {})
            self.wfile.write(json.dumps(event).encode() + b"\n")

        numbers = (self._number(name) for name in ("tab", "first", "count"))
        tab, first, count = numbers
        opaque = self.asked.get("opaque") == "1"
        self.server.desk.answer(self._key(), tab, painted, first, count, tell, opaque)

    def _part(self) -> None:
        box = [self._number(name) for name in ("left", "top")]
        box += [self._number(name, least=1) for name in ("width", "height")]
        self._send(*self.server.desk.part(self._key(), self._number("number"), box))

    def _download(self) -> None:
        kind = self.asked.get("kind", "png")
        data, kind, name = self.server.desk.download(self._key(), self._number("number"), kind)
        place = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        self._send(data, kind, {"Content-Disposition": place})


def _as_sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text[:1].upper() + text[1:] + "." * (text[-1] not in ".!?")
