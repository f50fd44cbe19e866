"""A headless Chromium, driven over the DevTools protocol."""

import base64
import json
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import urllib3
from websockets.sync.client import connect

_PATIENCE_SECONDS = 30.0


class Page:
    """One page of a browser of its own; a context manager."""

    def __init__(self, folder: Path, *, width: int = 1280, height: int = 900) -> None:
        self._folder, self._size = folder, (width, height)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._count = 0

    def __enter__(self) -> Self:
        width, height = self._size
        self._log = (self._folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            [
                "chromium",
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._folder / 'profile'}",
                f"--window-size={width},{height}",
                "about:blank",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        port = self._port()
        pages = urllib3.request("GET", f"http://127.0.0.1:{port}/json").json()
        address = next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
        self._socket = connect(address, max_size=1 << 26)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def _port(self) -> int:
        file, until = self._folder / "profile" / "DevToolsActivePort", time.monotonic() + 30
        while not (file.exists() and file.read_text().count("\n")):
            assert time.monotonic() < until and self._process.poll() is None, "no browser"
            time.sleep(0.05)
        return int(file.read_text().split("\n")[0])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=_PATIENCE_SECONDS))
            self._note(message)
            if message.get("id") == self._count:
                assert "error" not in message, message
                return dict(message["result"])

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"]["text"])
            case "Log.entryAdded" if message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def until(self, script: str) -> Any:
        """Wait for the expression to be true."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                if found := self.run(script):
                    return found
            except AssertionError:
                pass  # between two documents there is no context to ask
            assert time.monotonic() < until, f"never true: {script}"
            time.sleep(0.05)

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def picture(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
