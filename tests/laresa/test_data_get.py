"""`laresa data get`, against a server on this machine that cuts, ignores and lies as servers do."""

import contextlib
import errno
import hashlib
import os
import resource
import shutil
import signal
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from laresa import files
from laresa.data import download
from laresa.data.get import get
from laresa.errors import DataError
from tests.laresa.archives import FILES, birds, content, leftovers, tar, zipped


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


def about(server, body, *, kind="tar.gz", checksum=True):
    """The data set, its archive on the server."""
    server.files[f"/birds.{kind}"] = body
    return birds(body, url=f"http://127.0.0.1:{server.server_port}/birds.{kind}", kind=kind, checksum=checksum)


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


def test_a_beginning_of_an_earlier_run_is_continued(server, tmp_path):
    known = about(server, tar())
    server.cuts = [5000, 0, 0]
    with pytest.raises(DataError, match=rf"{known.url} can't be fetched: .* 5,000 bytes are kept, .* resumes"):
        get(known)
    assert leftovers(tmp_path) == [".birds.part", ".birds.part.json"]
    get(known)
    assert server.seen[-1]["Range"] == "bytes=5000-"
    assert content(tmp_path / "data" / "birds") == FILES


@pytest.mark.parametrize("why", ["ignores Range", "has another file now", "sends another piece", "gives no ETag"])
def test_a_beginning_that_does_not_fit_begins_anew(server, tmp_path, why):
    known = about(server, tar(), checksum=why != "gives no ETag")
    server.ranges, server.shift = why != "ignores Range", 7 if why == "sends another piece" else 0
    server.tag = None if why == "gives no ETag" else '"one"'
    server.cuts = [5000, 0, 0]
    with pytest.raises(DataError, match="resumes"):
        get(known)
    if why == "has another file now":
        server.tag = '"two"'
    get(known)
    assert content(tmp_path / "data" / "birds") == FILES


def test_a_beginning_longer_than_the_file_is_thrown_away(server, tmp_path):
    known = about(server, tar())
    server.cuts = [5000, 0, 0]
    with pytest.raises(DataError, match="resumes"):
        get(known)
    (tmp_path / "data" / ".birds.part").write_bytes(bytes(10**5))
    get(known)  # 416, then from the start
    assert [seen.get("Range") for seen in server.seen[-2:]] == ["bytes=100000-", None]
    assert content(tmp_path / "data" / "birds") == FILES


def test_a_server_that_is_overloaded_is_asked_again_and_one_that_refuses_is_not(server, tmp_path):
    known = about(server, tar())
    server.answers = [403]
    with pytest.raises(DataError, match=r"answers 403 Forbidden.*--archive"):
        get(known)
    assert len(server.seen) == 1
    server.answers = [503, 429]
    get(known)
    assert len(server.seen) == 4


def test_nobody_listens(server, tmp_path):
    known = about(server, tar())
    away = replace(known.files[0], url="http://127.0.0.1:9/birds.tar.gz")
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/.*Connection refused.*3 tries.*resumes"):
        get(replace(known, files=(away,)))


def test_a_changed_archive_is_refused_and_forgotten(server, tmp_path):
    known = about(server, tar())
    good = server.files["/birds.tar.gz"]
    server.files["/birds.tar.gz"] = bad = good[:-1] + bytes([good[-1] ^ 1])
    expected, found = (hashlib.md5(body).hexdigest() for body in (good, bad))
    with pytest.raises(DataError, match=rf"is changed: expected md5 {expected}, found {found}; .*begins anew"):
        get(known)
    assert leftovers(tmp_path) == []
    server.files["/birds.tar.gz"] = good[:9000]
    with pytest.raises(DataError, match=rf"cut off \(9,000 of {len(good):,} bytes\)"):
        get(known)
    server.files["/birds.tar.gz"] = good
    get(known)


def test_a_full_disk_is_told_before_anything_is_fetched(server, tmp_path, monkeypatch):
    known = about(server, tar())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"takes 0.00 GB more, of which .* free: make room, .*--to"):
        get(known)
    assert leftovers(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match=r"data.* can't be read or written"):
        get(about(server, tar()))


def test_what_the_user_has_under_that_name_stays(server, tmp_path):
    (tmp_path / "data" / "birds").mkdir(parents=True)
    (tmp_path / "data" / "birds" / "mine.txt").write_text("mine")
    known = about(server, tar())
    with pytest.raises(DataError, match=r"data/birds is there and holds no list.txt: move it away"):
        get(known)
    assert server.seen == []
    (tmp_path / "data" / "birds" / "mine.txt").unlink()
    assert get(known)[1]


def test_an_archive_that_the_user_has(server, tmp_path):
    known, own = about(server, tar()), tmp_path / "own.tgz"
    with pytest.raises(DataError, match=r"--archive .*own.tgz: no such file"):
        get(known, archive=own)
    own.write_bytes(server.files["/birds.tar.gz"][:-1])
    with pytest.raises(DataError, match=r"own.tgz is cut off \(.*expected the file of http"):
        get(known, archive=own)
    own.write_bytes(server.files["/birds.tar.gz"])
    get(known, archive=own, to=tmp_path / "there")
    assert content(tmp_path / "there" / "birds") == FILES
    assert own.is_file()
    assert server.seen == []


def in_a_child(before, known):
    """How a process ends that calls `get`, `before` it what is done to the process: 0 well, -9 killed."""
    if (child := os.fork()) == 0:  # a fork has imported all already: a new process takes seconds
        with contextlib.suppress(BaseException):
            before()
            get(known)
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_at_any_moment_leaves_no_half_data_set(server, tmp_path):
    """Killed at its K-th passage of a place to die, then once more without: the whole, each time."""
    known = about(server, tar())
    for k in range(1, 9):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        die = files._at(f"{tmp_path / f'passed{k}'}:{k}")
        ended = in_a_child(partial(setattr, files, "_die", die), known)
        if ended == 0:
            break
        assert ended == -9
        assert "birds" not in leftovers(tmp_path) or content(tmp_path / "data" / "birds") == FILES
        get(known)
        assert content(tmp_path / "data" / "birds") == FILES
        assert leftovers(tmp_path) == ["birds"]
    assert 4 < k < 8  # the note twice, before the rename and after it


def test_two_at_once_fetch_once(server, tmp_path):
    known = about(server, tar())
    found = []
    threads = [threading.Thread(target=lambda: found.append(get(known)[1])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, False, True]
    assert len(server.seen) == 1


def test_a_torn_archive_that_only_unpacking_finds_out_is_fetched_anew(server, tmp_path):
    good = tar()
    known = about(server, good[:9000], checksum=False)
    with pytest.raises(DataError, match="is cut off: its end is missing"):
        get(known)
    assert leftovers(tmp_path) == []
    server.files["/birds.tar.gz"] = good
    get(known)
    assert content(tmp_path / "data" / "birds") == FILES


def test_a_disk_that_fills_up_keeps_what_came(server, tmp_path):
    """A limit on a file's size stands for it: writing fails, not the network."""

    def small():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    known = about(server, tar())
    assert in_a_child(small, known) == 1
    assert len(server.seen) == 1
    get(known)
    assert server.seen[1]["Range"] == "bytes=8192-"


def test_what_the_disk_refuses_is_told(server, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    known = about(server, tar())
    for name in ("rename", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(DataError, match=r"No space left on device.*same command"):
                get(known)
    get(known)
