"""A real headless Chromium, spoken to in its own protocol (CDP) over a pipe, with virtual authenticators for passkeys.

https://chromedevtools.github.io/devtools-protocol/ (WebAuthn domain). No driver and no library is needed for a pipe:
JSON messages, each ended by a zero byte, on descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAIT_S = 30.0


def chromium() -> str | None:
    """The browser's program, None where there is none."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Browser:
    """One Chromium. Use `running_browser`."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # Out of the way of 3 and 4, where the browser looks for them.
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 32) for fd in (to_read, to_write)]
        arguments = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "--window-size=900,900", "about:blank",
        )  # fmt: skip

        def place() -> None:
            for number, fd in zip((3, 4), theirs, strict=True):
                os.dup2(fd, number)

        self._process = subprocess.Popen(
            [program, *arguments], pass_fds=(3, 4), preexec_fn=place, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for fd in (to_read, to_write, *theirs):
            os.close(fd)
        self._number, self._rest = 0, b""

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """One command and its result. Raises AssertionError with the browser's own words."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end_s = time.monotonic() + WAIT_S
        while True:
            answer = self._next(end_s)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])

    def _next(self, end_s: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end_s - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser is gone"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def page(self) -> Page:
        """A page of its own: no cookies, and no authenticator, of any other."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        page.call("Page.enable")
        return page

    def close(self) -> None:
        """End it and all its processes, which write to the profile until they are gone."""
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


@dataclass
class Page:
    """One tab."""

    browser: Browser
    session: str
    authenticator: str = ""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def own_authenticator(self) -> None:
        """Plug in an authenticator that verifies its user at once, as a person who touches it would."""
        self.call("WebAuthn.enable")
        options = {
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
            "isUserVerified": True, "automaticPresenceSimulation": True,
        }  # fmt: skip
        self.authenticator = self.call("WebAuthn.addVirtualAuthenticator", options=options)["authenticatorId"]

    def credentials(self) -> list[dict[str, Any]]:
        return list(self.call("WebAuthn.getCredentials", authenticatorId=self.authenticator)["credentials"])

    def add_credential(self, credential: dict[str, Any]) -> None:
        self.call("WebAuthn.addCredential", authenticatorId=self.authenticator, credential=credential)

    def goto(self, url: str) -> None:
        """Open a page and wait until it is there."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def js(self, code: str) -> Any:
        """The value of an expression, of what it resolves to where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"].get("exception", answer)
        return answer["result"].get("value")

    def wait(self, code: str) -> Any:
        """Until an expression is true."""
        end_s = time.monotonic() + WAIT_S
        while not (value := self._try(code)):
            assert time.monotonic() < end_s, f"never: {code}\n{self._try('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def _try(self, code: str) -> Any:
        try:
            return self.js(code)
        except AssertionError:
            return None  # between two documents

    def click(self, selector: str) -> None:
        """A click by the mouse, where the element is, as a person would."""
        middle = f"(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector({json.dumps(selector)})"
        self.js(f"document.querySelector({json.dumps(selector)}).scrollIntoView()")
        x, y = self.js(f"{middle}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    @property
    def text(self) -> str:
        return str(self.js("document.body.innerText"))

    def said(self) -> str:
        """What the page says of the outcome, once it does."""
        return str(self.wait("document.getElementById('said')?.textContent"))

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(shot))


@contextlib.contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """A browser; nothing of it is left afterwards. Ask `chromium` first whether there is one."""
    program = chromium()
    assert program is not None
    browser = Browser(program, profile)
    try:
        yield browser
    finally:
        browser.close()
