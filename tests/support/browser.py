"""A real browser for tests: headless Chromium over its debugging pipe, with nothing to install."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time

import numpy as np
from PIL import Image

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--remote-debugging-pipe"
)


class Browser:
    """One page: `open`, `run` (JavaScript), real mouse and keys, screenshots, requests made."""

    def __init__(self, profile):
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        # Chromium reads commands from file 3 and answers on file 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "-", CHROMIUM, *FLAGS.split()]
            + [f"--user-data-dir={profile}"],
            pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read), os.close(write)
        self._number, self._rest, self.requests, self._session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        """One command of the DevTools protocol, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path, width: int, height: int = 900) -> None:
        """Shows a file in a window of this size, without a network."""
        self.visit(path.as_uri(), width, height)

    def visit(self, address: str, width: int, height: int = 900, dark: bool = False) -> None:
        """Shows an address in a window of this size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def wait(self, condition: str, seconds: float = 10) -> None:
        """Until a JavaScript expression is true."""
        for _ in range(int(seconds / 0.05)):
            if self.run(condition):
                return
            time.sleep(0.05)
        raise TimeoutError(condition)

    def run(self, script: str):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def place(self, element: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Where (x, y), as shares of its size, of a JavaScript element is, scrolled into view."""
        box = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); "
            f"return [r.left, r.top, r.width, r.height]; }})({element})"
        )
        return box[0] + x * box[2], box[1] + y * box[3]

    def click(self, element: str) -> None:
        """A press and a release of the left button in the middle of an element."""
        x, y = self.place(element)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """One event of the left button."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
                  clickCount=1)  # fmt: skip

    def drag(self, places) -> None:
        """Presses the left button at the first of (x, y), moves through the others, and releases it."""
        self.mouse("mousePressed", *places[0])
        for place in places[1:]:
            self.mouse("mouseMoved", *place)
        self.mouse("mouseReleased", *places[-1])

    def touch(self, *moments) -> None:
        """Fingers: each moment a list of (x, y), one a finger; they are lifted after the last."""
        for i, fingers in enumerate([*moments, []]):
            kind = "touchStart" if i == 0 else "touchMove" if fingers else "touchEnd"
            points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(fingers)]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def drop(self, file, x: float, y: float) -> None:
        """Drops a file of the disk on the page."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def key(self, name: str) -> None:
        """Presses a key that has no text, such as ArrowRight."""
        code = {"ArrowLeft": 37, "ArrowRight": 39}[name]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                      windowsVirtualKeyCode=code)  # fmt: skip

    def screenshot(self) -> np.ndarray:
        """What is visible, uint8 `[H, W, 3]`."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def close(self) -> None:
        """Ends the browser."""
        os.close(self._out), os.close(self._in)
        self._process.terminate()
        self._process.wait(timeout=20)
