"""Fashion-MNIST in the true format of its four files; fetched, loaded, and each malformed one named."""

import gzip
import hashlib
import http.server
import struct
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from laresa import data
from laresa.data import fashion_mnist, report
from laresa.errors import DataError
from sweeps.cli.main import main

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
TRAIN_LABELS, TEST_LABELS = "train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LARESA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")


def write_idx(path, array):
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def write_all(folder, each=2):
    """Two images of each class to train, four to test on; {file: array}."""
    random, arrays = np.random.default_rng(0), {}
    for images, labels, count in ((TRAIN, TRAIN_LABELS, each), (TEST, TEST_LABELS, 2 * each)):
        arrays[labels] = random.permutation(np.repeat(np.arange(10), count))
        arrays[images] = random.integers(0, 256, (10 * count, 28, 28))
    for name, array in arrays.items():
        write_idx(folder / name, array)
    return arrays


def test_it_is_read_from_its_four_files(tmp_path):
    arrays = write_all(tmp_path / "data" / "fashion_mnist")
    found = data.load("fashion_mnist")
    assert found.train.images.shape == (20, 3, 28, 28)
    for channel in range(3):
        assert np.array_equal(found.train.images[:, channel].numpy(), arrays[TRAIN])
    assert found.train.labels.tolist() == arrays[TRAIN_LABELS].tolist()
    assert (len(found.val), len(found.test)) == (20, 20)
    assert found.taxonomy.names[:2] == ("T-shirt/top", "Trouser")
    tops = [name for name, parent in zip(found.taxonomy.names, found.taxonomy.parent_C, strict=True) if parent == 0]
    assert tops == ["T-shirt/top", "Pullover", "Shirt"]
    assert "are ours" in found.taxonomy.notes[0]
    assert data.folds("fashion_mnist") == 2
    assert found.mean[0] == pytest.approx(arrays[TRAIN].mean() / 255)
    assert data.load("fashion_mnist", image_size=14).train.images.shape == (20, 3, 14, 14)


def test_torchvisions_folder_is_found(tmp_path):
    write_all(tmp_path / "data" / "FashionMNIST" / "raw")
    assert len(data.load("fashion_mnist").train) == 20


def packed(*numbers, body=b""):
    return gzip.compress(struct.pack(f">{len(numbers)}I", *numbers) + body)


@pytest.mark.parametrize("part", ["train", "t10k"])
@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("images-idx3", None, "is not here|No such file"),
        ("labels-idx1", None, "No such file"),
        ("images-idx3", b"no gzip", "can't be read as a gzipped idx file"),
        ("images-idx3", packed(2051, 20, 28, 28, body=bytes(20 * 784))[:-12], "can't be read as a gzipped idx"),
        ("images-idx3", packed(2051, 20), "is cut off: 8 bytes"),
        ("images-idx3", packed(2049, 20, 28, 28), "is no idx file of bytes in 3 dimensions"),
        ("images-idx3", packed(2051, 20, 32, 32), r"images of \[32, 32\] pixels"),
        ("images-idx3", packed(2051, 2**32 - 1, 28, 28), "4,294,967,295 entries"),
        ("images-idx3", packed(2051, 20, 28, 28, body=bytes(100)), "header says 15,680 bytes, and it holds 100"),
        ("images-idx3", packed(2051, 40, 28, 28, body=bytes(40 * 784 + 1)), "and it holds more|has 20 labels"),
        ("labels-idx1", packed(2049, 19, body=bytes(19)), "has 19 labels, .* expected one each"),
        ("labels-idx1", packed(2049, 20, body=bytes(18)), "header says 20 bytes, and it holds 18"),
        ("labels-idx1", packed(2049, 0), "0 entries"),
        ("labels-idx1", packed(2049, 20, body=bytes(19) + b"\n"), "label 19 is 10: expected 0 to 9"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, part, file, content, why):
    folder = tmp_path / "data" / "fashion_mnist"
    write_all(folder, each=2 if part == "train" else 1)  # so that there are twenty in the file that is spoilt
    path = folder / f"{part}-{file}-ubyte.gz"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=why) as caught:
        data.load("fashion_mnist")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The four files on a server of this machine, which knows no Range; their folder."""
    folder = tmp_path / "host"
    write_all(folder)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        files = []
        for remote in fashion_mnist.ABOUT.files:
            name = remote.url.rpartition("/")[2]
            md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
            files.append(replace(remote, url=f"http://127.0.0.1:{server.server_port}/{name}", checksum=f"md5:{md5}"))
        monkeypatch.setattr(report, "FETCHED", (replace(fashion_mnist.ABOUT, files=tuple(files)),))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def test_it_is_fetched_from_the_command_line(host, tmp_path, capsys):
    elsewhere = tmp_path / "else where"
    assert main(["data", "get", "fashion_mnist"]) == 0
    assert f"fashion_mnist is now in {tmp_path}/data/fashion_mnist (licence: MIT)" in capsys.readouterr().out
    assert len(data.load("fashion_mnist").train) == 20
    assert main(["data", "get", "fashion_mnist"]) == 0
    assert "is already in" in capsys.readouterr().out
    assert main(["data", "get", "fashion_mnist", "--to", str(elsewhere)]) == 0
    assert f"export LARESA_DATA='{elsewhere}'" in capsys.readouterr().out
    assert len(data.load("fashion_mnist", root=elsewhere).train) == 20


def test_a_changed_file_of_four_is_named_and_the_others_are_kept(host, tmp_path, capsys):
    good = (host / TEST).read_bytes()
    (host / TEST).write_bytes(good[:-1] + b"!")
    assert main(["data", "get", "fashion_mnist"]) == 2
    error = capsys.readouterr().err
    assert f"{TEST}.part is cut off or changed" in error or f"{TEST}.part is cut off (" in error
    assert "Traceback" not in error
    assert not (tmp_path / "data" / "fashion_mnist").exists()
    (host / TEST).write_bytes(good)
    (host / TRAIN).unlink()  # it came the first time
    assert main(["data", "get", "fashion_mnist"]) == 0
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".fashion_mnist.lock", "fashion_mnist"]


def test_the_four_files_that_the_user_has(host, tmp_path, capsys):
    assert main(["data", "get", "fashion_mnist", "--archive", str(host / TRAIN)]) == 2
    assert "expected the folder that holds fashion_mnist's files train-images" in capsys.readouterr().err
    assert main(["data", "get", "fashion_mnist", "--archive", str(host)]) == 0
    assert len(data.load("fashion_mnist").test) == 20
    assert (host / TRAIN).is_file()
