"""`laresa data get`, against a server on this machine that cuts, ignores and lies as servers do."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from laresa.data import download
from laresa.data.get import get
from laresa.data.known import About, Remote


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LARESA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))


class Handler(BaseHTTPRequestHandler):
    """What it does is the server's: `files`, path -> bytes; `cuts`, after how many bytes each next answer ends."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # the base class's name
        server = self.server
        server.seen.append(dict(self.headers))
        if server.answers:
            self.send_error(server.answers.pop(0))
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        body, asked = server.files[self.path], self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start and self.headers.get("If-Range") not in (None, server.tag):
            start = 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(body) - 1}/{len(body)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[start:][:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads = True
        found.files, found.cuts, found.seen, found.answers = {}, [], [], []
        found.ranges, found.tag, found.shift = True, '"one"', 0
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


FILES = {"birds/list.txt": b"1 crow\n", "birds/images/crow.jpg": np.random.default_rng(0).bytes(20_000)}


def tar(members=None, *extra):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in (FILES if members is None else members).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return buffer.getvalue()


def zipped(members=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (FILES if members is None else members).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def about(server, body, *, kind="tar.gz", checksum=True):
    path = f"/birds.{kind}"
    server.files[path] = body
    md5 = f"md5:{hashlib.md5(body).hexdigest()}" if checksum else None
    url = f"http://127.0.0.1:{server.server_port}{path}"
    return About("birds", ("birds",), "list.txt", url, "MIT", 1, 1, (Remote(url, kind, md5, len(body), 30_000),))


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def leftovers(tmp_path):
    """What lies in the data folder, but for the lock."""
    return sorted(path.name for path in (tmp_path / "data").iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize(("kind", "pack"), [("tar.gz", tar), ("zip", zipped)])
def test_an_archive_is_fetched_and_unpacked(server, tmp_path, kind, pack, capsys):
    known = about(server, pack(), kind=kind)
    folder, new = get(known)
    assert (folder, new) == (tmp_path / "data" / "birds" / "birds", True)
    assert content(folder.parent) == FILES
    assert leftovers(tmp_path) == ["birds"]
    assert "100%" in capsys.readouterr().err
    assert get(known) == (folder, False)
    assert len(server.seen) == 1


def test_a_cut_transfer_is_resumed_where_it_broke_off(server, tmp_path):
    known = about(server, tar())
    server.cuts = [5000, 7000]
    get(known)
    assert [(seen.get("Range"), seen.get("If-Range")) for seen in server.seen] == [
        (None, None),
        ("bytes=5000-", '"one"'),
        ("bytes=12000-", '"one"'),
    ]
    assert content(tmp_path / "data" / "birds") == FILES
