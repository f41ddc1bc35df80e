"""Drive a headless Chromium through its debugging pipe: no driver program, no web socket, no package.

Used by the tests of the page, by `benchmarks/page.py`, and by `docs/images/take.py`. Commands and events are those of
the Chrome DevTools Protocol; each is one JSON object that ends in a NUL byte (`--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

CHROMIUM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE_S: Final = 60.0
ROOT: Final = Path(__file__).parents[1]
AXE: Final = Path(os.environ.get("AXE_CORE", ROOT / "build/npm/node_modules/axe-core/axe.min.js"))
NO_AXE: Final = (
    "no axe-core here: npm install --prefix build/npm axe-core, or name its axe.min.js in AXE_CORE"
)


class BrowserError(RuntimeError):
    """The browser refused a command, ended, or kept silent."""


class Browser:
    """One browser process with a profile of its own; use it as a context manager."""

    def __init__(self) -> None:
        if CHROMIUM is None:
            raise BrowserError("no Chromium on this machine: apt-get install chromium")
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # The browser reads descriptor 3 and writes descriptor 4; a shell puts ours there.
        command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                command,
                "bash",
                CHROMIUM,
                *FLAGS,
                f"--user-data-dir={self._profile}",
                "about:blank",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._count = 0
        self._unread = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrowserError, OSError):
            self.call("Browser.close")
        os.close(self._to)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        """Send one command and return its result; events that arrive meanwhile are kept in `events`."""
        self._count += 1
        message = {
            "id": self._count,
            "method": method,
            "params": given,
            **({"sessionId": session} if session else {}),
        }
        unsent = json.dumps(message).encode() + b"\0"
        while unsent:
            unsent = unsent[os.write(self._to, unsent) :]
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error'].get('message')}")
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, method: str, session: str) -> dict[str, Any]:
        """Wait for an event of a tab, one that has already come included."""
        for event in self.events:
            if event["method"] == method and event.get("sessionId") == session:
                return event
        while True:
            event = self._next()
            self.events.append(event)
            if event.get("method") == method and event.get("sessionId") == session:
                return event

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(until - time.monotonic(), 0))
            chunk = os.read(self._from, 1 << 16) if ready else b""
            if not chunk:
                raise BrowserError(f"Chromium {'ended' if ready else f'kept silent for {PATIENCE_S:.0f} s'}")
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(
        self,
        page: Path,
        width: int = 1280,
        height: int = 900,
        *,
        dark: bool = False,
        scripts: bool = True,
        media: str = "",
    ) -> Tab:
        """Load a page in a tab of its own and wait until it is there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, target)
        for domain in ("Page", "Network", "Runtime"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        tab.call("Emulation.setEmulatedMedia", media=media, features=scheme)
        tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        begun = time.perf_counter()
        tab.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("Page.loadEventFired", session)
        tab.seconds = time.perf_counter() - begun
        return tab


class Tab:
    """A loaded page; `seconds` is how long it took from navigation to its load event."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.seconds = 0.0

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """Send a command to this tab."""
        return self._browser.call(method, self._session, **given)

    def resize(self, width: int, height: int) -> None:
        """Give the window a size in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of a JavaScript expression; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(str(found["exceptionDetails"].get("exception", {}).get("description", found)))
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key such as Tab, Enter or ArrowRight."""
        codes = {
            "Tab": 9,
            "Enter": 13,
            " ": 32,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        typed = {"text": {"Enter": "\r"}.get(key, key)} if key in ("Enter", " ") else {}
        about = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def screenshot(self, *, whole: bool = False) -> bytes:
        """Return a PNG of the window, or of the whole page."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(taken["data"])

    def picture_of(self, selector: str) -> bytes:
        """Return a PNG of the first element that a CSS selector names, with a little of the page around it."""
        box = self.evaluate(
            f"(() => {{ const at = document.querySelector({json.dumps(selector)}).getBoundingClientRect(); "
            "return {x: at.x + scrollX - 12, y: at.y + scrollY - 12, width: at.width + 24, height: at.height + 24, "
            "scale: 1} })()"
        )
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=box)
        return base64.b64decode(taken["data"])

    def requests(self) -> list[str]:
        """Return what the page asked for, beside itself."""
        events = self._of("Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in events][1:]

    def complaints(self) -> list[str]:
        """Return uncaught exceptions and dialogs: a page that keeps still has none."""
        thrown = [
            event["params"]["exceptionDetails"]["text"] for event in self._of("Runtime.exceptionThrown")
        ]
        return thrown + [event["params"]["message"] for event in self._of("Page.javascriptDialogOpening")]

    def _of(self, method: str) -> list[dict[str, Any]]:
        events = self._browser.events
        return [
            event
            for event in events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]

    def serious(self) -> list[str]:
        """Return what axe-core calls serious or critical on this page, with the first element that it means."""
        self.evaluate(AXE.read_text(encoding="utf-8") + ";0")
        found = self.evaluate("axe.run().then(said => said.violations)")
        return [
            f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)
