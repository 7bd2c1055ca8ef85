"""A real browser for tests: Debian's Chromium over its DevTools protocol, with nothing to install but itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-port=0",
)  # fmt: skip
START_SECONDS = 30
LOADED = "document.readyState === 'complete' && location.href !== 'about:blank'"
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}


class Chromium:
    """A browser with a profile of its own; each page is a stranger to the others."""

    def __init__(self) -> None:
        assert PROGRAM
        self.profile = tempfile.mkdtemp(prefix="nightdesk-chromium-")
        self.process = subprocess.Popen(
            [PROGRAM, *OPTIONS, f"--user-data-dir={self.profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        note = Path(self.profile, "DevToolsActivePort")
        deadline = time.monotonic() + START_SECONDS
        while not (note.is_file() and note.read_text().count("\n")):
            assert time.monotonic() < deadline, "Chromium did not start"
            assert self.process.poll() is None, "Chromium ended at its start"
            time.sleep(0.05)
        port, path = note.read_text().split()
        self.address = f"ws://127.0.0.1:{port}"
        self.line = Line(self.address + path)

    def page(self) -> Page:
        """An empty page without cookies."""
        context = self.line.call("Target.createBrowserContext")["browserContextId"]
        target = self.line.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        return Page(f"{self.address}/devtools/page/{target}")

    def close(self) -> None:
        """End the browser and forget its profile."""
        with suppress(Exception):
            self.line.call("Browser.close")
            self.line.open.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


class Line:
    """Calls and events of the DevTools protocol."""

    def __init__(self, address: str) -> None:
        self.open = ExitStack()
        self.socket = self.open.enter_context(connect(address, max_size=None, compression=None, proxy=None))
        self.count = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one call; what happens meanwhile is kept in `events`."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == self.count:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self.events.append(message)


class Page(Line):
    """One tab: what a person does with it, and what they would see."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size and the person's theme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])

    def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.until(LOADED)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression is true, over navigations too; returns it."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(AssertionError):
                if found := self.js(expression):
                    return found
            assert time.monotonic() < deadline, f"never true: {expression}\n{self.text()[:3000]}"
            time.sleep(0.05)

    def text(self) -> str:
        """What a person can read."""
        return str(self.js("document.body.innerText"))

    def click(self, selector: str) -> None:
        """Press the mouse where the element is."""
        self.until(f"!!document.querySelector({json.dumps(selector)})")
        x, y = self.js(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.until(f"!!document.querySelector({json.dumps(selector)})")
        self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code="Space" if key == " " else key,
                windowsVirtualKeyCode=KEYS[key],
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]))

    def wider_than(self, width: int) -> list[str]:
        """What sticks out on the right, and makes the whole page wider than the window."""
        if self.js("document.documentElement.scrollWidth") <= width:
            return []
        return list(
            self.js(
                "[...document.querySelectorAll('body *')]"
                f".filter(e => e.getBoundingClientRect().right > {width}).map(e => e.outerHTML.slice(0, 200))"
            )
        )

    def complaints(self) -> list[str]:
        """What the browser's console would show in red."""
        self.js("0")
        found = []
        for event in self.events:
            given = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(given["exceptionDetails"])[:500])
            if event["method"] == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(given["args"])[:500])
            if event["method"] == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
                found.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
        return found

    def asked(self) -> list[str]:
        """The address of every request that the page made."""
        self.js("0")
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
