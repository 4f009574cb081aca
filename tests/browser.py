"""A headless Chromium through its DevTools protocol: opens a page, waits for words, reads and photographs it, or runs
expressions in it and tells what it complained of and what it asked the network for."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = None if PROGRAM else "needs a Chromium: apt-get install chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Its profile is new and goes with it."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=2600,1200"]
        process = subprocess.Popen(
            [PROGRAM, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Browser(_address(Path(profile), process))
        finally:
            process.terminate()
            process.wait(10)


@dataclass(frozen=True)
class Visit:
    """values: what the expressions gave; complaints: of the console; requests: addresses asked for beside the page."""

    values: list[Any]
    complaints: list[str]
    requests: list[str]


class Browser:
    def __init__(self, address: str) -> None:
        self.address = address

    def look(self, url: str, words: list[str], picture: Path, *, seconds: float = 40) -> str:
        """The text of the page and its frames once it holds all words, and a picture. AssertionError: it never did."""
        return asyncio.run(self._look(url, words, picture, seconds))

    async def _look(self, url: str, words: list[str], picture: Path, seconds: float) -> str:
        async with aiohttp.ClientSession() as client, client.ws_connect(self.address, max_msg_size=0) as socket:
            page = Page(socket)
            target = (await page.ask("Target.createTarget", url=url))["targetId"]
            page.session = (await page.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
            deadline = time.monotonic() + seconds
            while True:
                text = await page.text()
                if all(word in text for word in words) or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.5)
            await asyncio.sleep(1.0)  # what is drawn after the words are there
            shot = await page.ask("Page.captureScreenshot", format="png")
            picture.write_bytes(base64.b64decode(shot["data"]))
            page.session = None
            await page.ask("Target.closeTarget", targetId=target)
        missing = [word for word in words if word not in text]
        assert not missing, f"{url} does not show {missing} (see {picture}):\n{text[:3000]}"
        return text

    def visit(
        self, url: str, expressions: Sequence[str], *, width: int, dark: bool = False, picture: Path | None = None
    ) -> Visit:
        """Open the page in a window so wide and evaluate the expressions in turn. picture: of the whole page after."""
        return asyncio.run(self._visit(url, expressions, width, dark, picture))

    async def _visit(self, url: str, expressions: Sequence[str], width: int, dark: bool, picture: Path | None) -> Visit:
        async with aiohttp.ClientSession() as client, client.ws_connect(self.address, max_msg_size=0) as socket:
            page = Page(socket)
            target = (await page.ask("Target.createTarget", url="about:blank"))["targetId"]
            page.session = (await page.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.ask(f"{domain}.enable")
            size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
            await page.ask("Emulation.setDeviceMetricsOverride", **size)
            await page.ask("Emulation.setScrollbarsHidden", hidden=True)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await page.ask("Emulation.setEmulatedMedia", features=[scheme])
            await page.ask("Page.navigate", url=url)
            deadline = time.monotonic() + 30
            while await page.evaluate("location.href + document.readyState") != f"{url}complete":
                assert time.monotonic() < deadline, f"{url} did not open"
                await asyncio.sleep(0.05)
            values = [await page.evaluate(expression) for expression in expressions]
            if picture is not None:
                shot = await page.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
                picture.write_bytes(base64.b64decode(shot["data"]))
            session, page.session = page.session, None
            await page.ask("Target.closeTarget", targetId=target)
        seen = [event for event in page.events if event.get("sessionId") == session]
        return Visit(values, *_complaints_and_requests(seen, url))


class Page:
    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []  # what came unasked

    async def ask(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        session = {"sessionId": self.session} if self.session else {}
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": params, **session}))
        async for message in self._socket:
            answer = json.loads(message.data)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)
        raise RuntimeError(f"{method}: the browser is gone")

    async def evaluate(self, expression: str) -> Any:
        """The value as JSON. AssertionError: the expression threw."""
        answer = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def text(self) -> str:
        """What a reader sees, in frames too."""
        found, page = [await self._own_text()], self.session
        self.session = None
        frames = [t for t in (await self.ask("Target.getTargets"))["targetInfos"] if t["type"] == "iframe"]
        for frame in frames:
            self.session = None
            self.session = (await self.ask("Target.attachToTarget", targetId=frame["targetId"], flatten=True))[
                "sessionId"
            ]
            found.append(await self._own_text())
        self.session = page
        return "\n".join(found)

    async def _own_text(self) -> str:
        return str(await self.evaluate("document.body ? document.body.innerText : ''"))


def _complaints_and_requests(events: list[dict[str, Any]], url: str) -> tuple[list[str], list[str]]:
    kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    complaints = [json.dumps(event["params"]) for event in events if event["method"] in kinds]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return complaints, [address for address in asked if address != url and not address.startswith("data:")]


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 30
    port = profile / "DevToolsActivePort"
    while not port.exists() or len(port.read_text().splitlines()) < 2:
        assert process.poll() is None, "Chromium ended at once"
        assert time.monotonic() < deadline, "Chromium did not come up within 30 s"
        time.sleep(0.05)
    number, path = port.read_text().splitlines()[:2]
    return f"ws://127.0.0.1:{number}{path}"
