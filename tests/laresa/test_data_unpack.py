"""Archives that are torn, lie, or would write elsewhere: refused before the first byte is written. And names."""

import gzip
import tarfile
import zipfile

import pytest

from laresa.data import report
from laresa.data.get import get
from laresa.errors import ConfigError, DataError
from sweeps.cli.main import main
from tests.laresa.archives import FILES, birds, info, leftovers, tar, zipped


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Where the user's own archive lies."""
    monkeypatch.setenv("LARESA_DATA", str(tmp_path / "data"))
    return tmp_path / "own"


@pytest.mark.parametrize(("kind", "pack"), [("tar.gz", tar), ("zip", zipped)])
@pytest.mark.parametrize("left", [30, 9000, -5])
def test_a_torn_archive_without_a_checksum_is_refused(tmp_path, own, kind, pack, left):
    body = pack()[:left]
    own.write_bytes(body)
    with pytest.raises(DataError, match=rf"own is (cut off|damaged, or no {kind})"):
        get(birds(body, kind=kind, checksum=False), archive=own)
    assert leftovers(tmp_path) == []


BAD_TARS = [
    ("/tmp/laresa_x", tar({**FILES, "/tmp/laresa_x": b""}), "absolute"),
    ("../x", tar({**FILES, "birds/../../x": b""}), "outside"),
    ("tab", tar({**FILES, "birds/a\tb": b""}), "control characters"),
    ("escape", tar({**FILES, "birds/\x1b[2J": b""}), "control characters"),
    ("symlink", tar(None, info("birds/x", tarfile.SYMTYPE, "../../x")), "link that leads outside"),
    ("absolute symlink", tar(None, info("birds/x", tarfile.SYMTYPE, "/etc/passwd")), "link that leads outside"),
    ("hard link", tar(None, info("birds/x", tarfile.LNKTYPE, "../x")), "link that leads outside"),
    ("hard link to nothing", tar(None, info("birds/x", tarfile.LNKTYPE, "etc/passwd")), "link that leads outside"),
    (
        "two links",  # each leads inside; the second, through the first, would lead outside
        tar(None, info("b", tarfile.SYMTYPE, "."), info("c", tarfile.SYMTYPE, "b/x/../..")),
        "through a link",
    ),
    (
        "beneath a link",
        tar(None, info("link", tarfile.SYMTYPE, "birds"), info("link/x", tarfile.DIRTYPE)),
        "lies beneath a link",
    ),
    ("device", tar(None, info("birds/x", tarfile.CHRTYPE)), "neither file"),
    ("pipe", tar(None, info("birds/x", tarfile.FIFOTYPE)), "neither file"),
    ("big", tar(None, info("birds/x", tarfile.REGTYPE, size=10**12)), "unpacks to more than"),
    ("bomb", tar({**FILES, "birds/x": bytes(10**6)}), "unpacks to more than"),
    ("header", tar(None, info("x", tarfile.GNUTYPE_LONGNAME, size=2**31)), "a header of"),
    ("tail", gzip.compress(gzip.decompress(tar()) + bytes(10**6)), "after its last member"),
    ("another", tar({"cats/list.txt": b""}), "holds no birds/list.txt"),
]


@pytest.mark.parametrize(("body", "why"), [row[1:] for row in BAD_TARS], ids=[row[0] for row in BAD_TARS])
def test_an_archive_that_would_write_elsewhere_is_refused_unopened(tmp_path, own, monkeypatch, body, why):
    own.write_bytes(body)
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_, **__: pytest.fail("something was unpacked"))
    with pytest.raises(DataError, match=why) as caught:
        get(birds(body), archive=own)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "own"]


def zip_link():
    found = zipfile.ZipInfo("birds/x")
    found.external_attr = 0o120777 << 16
    return zipped({**FILES, found: b"/etc/passwd"})


BAD_ZIPS = [
    (lambda: zipped({**FILES, "../x": b""}), "outside"),
    (lambda: zipped({**FILES, "/tmp/x": b""}), "absolute"),
    (lambda: zipped({**FILES, "birds\\..\\x": b""}), "absolute"),
    (lambda: zipped({**FILES, "birds/\x1b[2J": b""}), "control characters"),
    (zip_link, "neither file"),
    (lambda: zipped({**FILES, "birds/x": bytes(10**6)}), "unpacks to more than"),
    (lambda: b"no zip at all", "damaged, or no zip"),
]


@pytest.mark.parametrize(("make", "why"), BAD_ZIPS, ids=[row[1] for row in BAD_ZIPS])
def test_a_zip_that_would_write_elsewhere_is_refused_unopened(tmp_path, own, make, why):
    own.write_bytes(body := make())
    with pytest.raises(DataError, match=why):
        get(birds(body, kind="zip"), archive=own)
    assert leftovers(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "own"]


def test_links_that_stay_inside_are_unpacked(tmp_path, own):
    hard = info("birds/two.jpg", tarfile.LNKTYPE, "birds/images/crow.jpg")
    own.write_bytes(body := tar(None, info("birds/l.txt", tarfile.SYMTYPE, "images/../list.txt"), hard))
    get(birds(body), archive=own)
    folder = tmp_path / "data" / "birds" / "birds"
    assert (folder / "l.txt").read_bytes() == FILES["birds/list.txt"]
    assert (folder / "two.jpg").read_bytes() == FILES["birds/images/crow.jpg"]


def test_nabirds_has_a_form(tmp_path, own, capsys):
    assert main(["data", "get", "nabirds"]) == 2
    assert "get the archive at https://dl.allaboutbirds.org/nabirds" in (said := capsys.readouterr().err)
    assert "`laresa data get nabirds --archive FILE`" in said
    own.write_bytes(tar({"nabirds/hierarchy.txt": b"1 0\n"}))
    assert main(["data", "get", "nabirds", "--archive", str(own)]) == 0
    assert (tmp_path / "data" / "nabirds" / "nabirds" / "hierarchy.txt").is_file()


@pytest.mark.parametrize(
    ("name", "why"), [("cub20", "did you mean 'cub200'"), ("emoji120", "emoji120 needs no fetching")]
)
def test_what_cannot_be_fetched_is_told(name, why, capsys):
    with pytest.raises(ConfigError, match=why):
        report.about(name)
    assert main(["data", "get", name]) == 2
    assert why in capsys.readouterr().err


def test_every_data_set_says_what_is_to_be_fetched():
    for known in report.FETCHED:
        assert known.files
        for remote in known.files:
            assert (remote.url is None) == (known.name == "nabirds")
            assert remote.checksum is None or len(remote.checksum) == len("md5:") + 32
            assert remote.url is None or remote.url.startswith("http")
            assert remote.kind == "file" or remote.unpacked > remote.size
