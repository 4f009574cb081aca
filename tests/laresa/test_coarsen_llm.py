"""A language model that misbehaves: every way ends well or with one clear line, and the key is nowhere."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from laresa.coarsen import ask, endpoint
from laresa.errors import ConfigError
from sweeps.cli.main import main

PETS = ("siamese_cat", "persian", "beagle", "husky", "goldfish", "guppy")
GOOD = {"cats": ["siamese_cat", "persian"], "dogs": ["beagle", "husky"], "fish": ["goldfish", "guppy"]}
SECRET = "sk-very-secret-0123456789"


def completion(content: object, **more: Any) -> tuple[int, dict[str, str], bytes]:
    body = {"choices": [{"message": {"role": "assistant", "content": content}, **more}]}
    return 200, {}, json.dumps(body).encode()


def grouped(groups: dict[str, list[str]]) -> tuple[int, dict[str, str], bytes]:
    return completion(json.dumps({"groups": [{"name": name, "classes": given} for name, given in groups.items()]}))


@dataclass
class Fake:
    """script: what the next requests get; the last stands for all further ones. A number is seconds of silence."""

    url: str = ""
    script: list[Any] = field(default_factory=lambda: [grouped(GOOD)])
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def fake() -> Iterator[Fake]:
    state, over = Fake(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            state.headers.append({"path": self.path, **self.headers})
            does = state.script.pop(0) if len(state.script) > 1 else state.script[0]
            if isinstance(does, float):
                over.wait(does)
                return
            status, headers, body = does
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    fake: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Run]:
    """The command in a folder of its own; afterwards the key is looked for in all that was said and written."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "no_proxy": "127.0.0.1",
        endpoint.URL: fake.url,
        endpoint.MODEL: "fake-1",
        endpoint.KEY: SECRET,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ask, "PAUSE", 0.01)
    (tmp_path / "pets.txt").write_text("\n".join(PETS))
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    logged: list[str] = []

    def command(*more: str) -> tuple[int, str, str]:
        code = main(["data", "coarsen", "pets.txt", "--llm", "--debug", *more])
        out, err = capsys.readouterr()
        said.extend((out, err))
        warned = "".join(f"{r.getMessage()}\n" for r in caplog.records if r.levelno >= logging.WARNING)
        logged.append(caplog.text)
        caplog.clear()
        return code, out, warned + err

    yield command
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in (*said, *logged, *written) if SECRET[:12] in text or SECRET[-10:] in text]


def groups_in(path: Path) -> dict[str, list[str]]:
    return json.loads(path.read_text())["groups"]


def test_groups_by_a_model_with_their_prompt(run: Run, fake: Fake, tmp_path: Path):
    code, out, err = run("--groups", "3")
    assert (code, err) == (0, "")
    assert "wrote pets-coarse.json: 6 classes in 3 groups" in out
    assert groups_in(tmp_path / "pets-coarse.json") == GOOD
    (asked,), (headers,) = fake.seen, fake.headers
    assert headers["path"] == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert (asked["model"], asked["temperature"]) == ("fake-1", 0)
    assert asked["response_format"]["type"] == "json_schema"
    assert "What the model was asked stands in pets-coarse.prompt.txt." in out
    prompt = (tmp_path / "pets-coarse.prompt.txt").read_text()
    assert all(message["content"] in prompt for message in asked["messages"])
    assert "Make exactly 3 groups" in prompt
    assert all(name in prompt for name in PETS)


def test_the_same_question_asks_nobody_and_another_does(run: Run, fake: Fake, tmp_path: Path):
    assert run()[0] == 0
    first = (tmp_path / "pets-coarse.json").read_bytes()
    assert run("--force")[0] == 0
    assert (tmp_path / "pets-coarse.json").read_bytes() == first
    assert len(fake.seen) == 1
    for number, more in enumerate((["--groups", "3"], ["--llm-model", "fake-2"]), start=2):
        assert run("--force", *more)[0] == 0
        assert len(fake.seen) == number
    for kept in (tmp_path / "cache" / "laresa" / "coarsen").iterdir():
        kept.write_text("{}")
    assert "asking again" in run("--force")[2]
    assert len(fake.seen) == 4


def test_nothing_is_asked_where_the_result_would_be_refused(run: Run, fake: Fake, tmp_path: Path):
    (tmp_path / "pets-coarse.prompt.txt").write_text("mine")
    code, _, err = run()
    assert (code, fake.seen) == (2, [])
    assert "pets-coarse.prompt.txt is there already" in err


WELL = {
    "500": [(500, {}, b"oops")],
    "429": [(429, {"Retry-After": "0"}, b"slow down")],
    "429 until a date": [(429, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}, b"")],
    "timeout": [30.0],
    "no JSON": [completion("Sure! Here are your groups.")],
    "no completion": [(200, {}, b"<html>")],
    "another shape": [completion(json.dumps({"groups": {"cats": ["persian"]}}))],
    "cut off": [completion('{"groups": [', finish_reason="length")],
    "refusal": [completion(None)],
    "drops a class": [grouped({**GOOD, "dogs": ["beagle"]})],
    "doubles a class": [grouped({**GOOD, "dogs": ["beagle", "husky", "persian"]})],
    "invents a class": [grouped({**GOOD, "dogs": ["beagle", "husky", "poodle"]})],
    "an empty name": [grouped({"cats": GOOD["cats"], " ": GOOD["dogs"], "fish": GOOD["fish"]})],
    "repeats the key": [grouped({**GOOD, SECRET: []})],
    "two faults in a row": [(503, {}, b""), grouped({"all": ["persian"]})],
}


@pytest.mark.parametrize("how", WELL)
def test_what_goes_wrong_once_is_asked_again(how: str, run: Run, fake: Fake, tmp_path: Path):
    fake.script = [*WELL[how], grouped(GOOD)]
    code, _, err = run("--llm-timeout", "0.5" if how == "timeout" else "20")
    assert code == 0, err
    assert groups_in(tmp_path / "pets-coarse.json") == GOOD
    assert len(fake.seen) == len(WELL[how]) + 1
    assert err.count("asking again") == len(WELL[how])


def test_it_waits_as_long_as_the_server_says(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch):
    waited: list[float] = []
    monkeypatch.setattr("laresa.coarsen.ask.time.sleep", waited.append)
    monkeypatch.setattr(ask, "PAUSE", 1.0)
    fake.script = [(429, {"Retry-After": said}, b"") for said in ("7", "9999", "nan", "soon")] + [grouped(GOOD)]
    assert run()[0] == 0
    assert waited == [7, endpoint.LONGEST, 4, 8]


def test_the_model_is_told_what_it_dropped_and_doubled(run: Run, fake: Fake):
    wrong = {"cats": ["siamese_cat", "persian"], "dogs": ["beagle", "beagle", "poodle"], "fish": ["goldfish", "guppy"]}
    fake.script = [grouped(wrong), grouped(GOOD)]
    assert run()[0] == 0
    roles = [message["role"] for message in fake.seen[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    told = fake.seen[1]["messages"][-1]["content"]
    assert "in no group: 'husky'" in told
    assert "'beagle' is in more than one place: 'dogs' and 'dogs'" in told
    assert "'poodle' is no class" in told


def test_spellings_and_fences_are_understood(run: Run, fake: Fake, tmp_path: Path):
    other = [{"name": name, "classes": given} for name, given in {**GOOD, "cats": ["Siamese Cat", "persian"]}.items()]
    fake.script = [completion(f"```json\n{json.dumps({'groups': other})}\n```")]
    assert run()[0] == 0
    assert groups_in(tmp_path / "pets-coarse.json") == GOOD


BADLY = {  # what it does each time -> (what is said, requests)
    "500": ((500, {}, b"oops"), "HTTP 500", 5),
    "429": ((429, {"Retry-After": "0"}, b""), "HTTP 429", 5),
    "no JSON": (completion("no"), "the answer is not JSON", 5),
    "another shape": (completion("[]"), "the answer has another shape", 5),
    "drops a class": (grouped({**GOOD, "dogs": ["beagle"]}), "in no group: 'husky'", 5),
    "doubles a class": (
        grouped({**GOOD, "dogs": ["beagle", "husky", "persian"]}),
        "'persian' is in more than one place: 'cats' and 'dogs'",
        5,
    ),
    "invents a class": (grouped({**GOOD, "dogs": ["beagle", "husky", "husk"]}), "'husk' is no class; did you mean", 5),
    "a class's name": (
        grouped({"cats": GOOD["cats"], "husky": GOOD["dogs"], "fish": GOOD["fish"]}),
        "both a class and a group (give the group another name): 'husky'",
        5,
    ),
    "an empty name": (grouped({"": GOOD["cats"]}), "a group's name is empty", 5),
    "401": ((401, {}, f"bad key {SECRET}".encode()), "refuses the key (HTTP 401): see LARESA_LLM_KEY", 1),
    "400": ((400, {}, b'{"error": "no such model"}'), "no such model", 1),
    "400 with the key": ((400, {}, f"key {SECRET[:12]}***".encode()), "refuses the request for model 'fake-1'", 1),
    "302": ((302, {"Location": "http://127.0.0.1:9/"}, b""), "sends elsewhere (HTTP 302)", 1),  # urllib would go there
    "307": ((307, {"Location": "http://127.0.0.1:9/"}, b""), "sends elsewhere (HTTP 307)", 1),
}


@pytest.mark.parametrize("how", BADLY)
def test_what_stays_wrong_is_told_in_a_line_and_nothing_is_written(how: str, run: Run, fake: Fake, tmp_path: Path):
    does, message, requests = BADLY[how]
    fake.script = [does]
    code, out, err = run()
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert len(fake.seen) == requests
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets.txt"]


def test_a_server_that_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch):
    code, _, err = run("--llm-url", "http://127.0.0.1:9/v1")
    assert code == 2
    assert "the endpoint can't be reached (ConnectionRefusedError" in err.splitlines()[-1]


def test_an_answer_drop_by_drop_is_no_answer(fake: Fake, monkeypatch: pytest.MonkeyPatch):
    class Slow:
        def __enter__(self) -> Slow:
            return self

        def __exit__(self, *args: object) -> None: ...

        def read1(self, size: int) -> bytes:
            time.sleep(0.02)
            return b" "

    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *args, **kwargs: Slow())
    with pytest.raises(endpoint.TryAgainError, match="no answer within"):
        endpoint.chat(endpoint.Endpoint("http://127.0.0.1:9", "m", SECRET, timeout=0.1), [], {})


@pytest.mark.parametrize("name", [endpoint.URL, endpoint.MODEL, endpoint.KEY])
def test_what_is_missing_is_named(name: str, run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(name)
    code, _, err = run()
    assert (code, fake.seen) == (2, [])
    assert f"--llm needs {name}" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (endpoint.URL, "file:///etc/passwd"),
        (endpoint.URL, "https://me:word@host/v1"),
        (endpoint.URL, "http://host:99999/v1"),
        (endpoint.KEY, f"{SECRET}\nX: y"),
        (endpoint.KEY, f"{SECRET}é"),
    ],
)
def test_what_cannot_be_used_is_named_and_not_shown(name: str, value: str, run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    code, _, err = run()
    assert code == 2
    assert name in err.splitlines()[-1]
    assert value not in err


def test_a_key_that_travels_in_the_open_is_warned_of(run: Run):
    for url, warned in {
        "http://models.invalid/v1": True,
        "https://models.invalid": False,
        "http://[::1]:9": False,
    }.items():
        code, _, err = run("--llm-url", url, "--groups", "7")
        assert code == 2
        assert ("by http the key and the class names can be read" in err) == warned


def test_the_key_is_not_in_the_repr(fake: Fake):
    assert SECRET not in repr(endpoint.Endpoint(fake.url, "m", SECRET))
    with pytest.raises(ConfigError, match="--groups 7: expected 1 to 6"):
        ask.ask(PETS, endpoint.Endpoint(fake.url, "m", SECRET), count=7)
    assert fake.seen == []
