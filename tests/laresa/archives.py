"""A miniature data set's archives, sound and other."""

import hashlib
import io
import tarfile
import zipfile

import numpy as np

from laresa.data.known import About, Remote

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


def birds(body, *, url="http://127.0.0.1/birds", kind="tar.gz", checksum=True):
    """What is known of the data set whose archive is `body`."""
    md5 = f"md5:{hashlib.md5(body).hexdigest()}" if checksum else None
    return About("birds", ("birds",), "list.txt", url, "MIT", 1, 1, 8, (Remote(url, kind, md5, len(body), 30_000),))


def info(name, kind, target="", size=0):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, target, size
    return found


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def leftovers(tmp_path):
    """What lies in the data folder, but for the lock."""
    return sorted(path.name for path in (tmp_path / "data").iterdir() if not path.name.endswith(".lock"))
