"""A headless Chromium through its DevTools protocol: opens a page, waits for words, reads and photographs it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


class Page:
    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.session: str | None = None

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
        raise RuntimeError(f"{method}: the browser is gone")

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
        answer = await self.ask("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
        return str(answer["result"].get("value", ""))


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 30
    port = profile / "DevToolsActivePort"
    while not port.exists() or len(port.read_text().splitlines()) < 2:
        assert process.poll() is None, "Chromium ended at once"
        assert time.monotonic() < deadline, "Chromium did not come up within 30 s"
        time.sleep(0.05)
    number, path = port.read_text().splitlines()[:2]
    return f"ws://127.0.0.1:{number}{path}"
