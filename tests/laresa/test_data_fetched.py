"""CIFAR-100, CUB-200 and TinyImageNet, on tiny copies in the true format of their files."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from laresa import data
from laresa.config import TrialConfig
from laresa.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from laresa.errors import DataError
from laresa.taxonomy import shipped, shipped_json


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LARESA_DATA", str(tmp_path / "data"))


class Python2(pickle._Pickler):
    """Writes as Python 2 did: protocol 2, and byte strings as themselves (Python 3 would call a codec)."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value):
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def write_pickle(path, fields):
    buffer = io.BytesIO()
    Python2(buffer, 2).dump(fields)
    # numpy 2 names the module in which numpy 1 had its function otherwise
    path.write_bytes(buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


@pytest.fixture
def cifar(tmp_path):
    folder = tmp_path / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    tree, random = shipped("cifar100"), np.random.default_rng(0)
    coarse = sorted(tree.coarse_names)
    names = [name.replace(" ", "_") for name in coarse]
    write_pickle(folder / "meta", {"fine_label_names": list(tree.names), "coarse_label_names": names})
    for part, each in (("train", 1), ("test", 2)):
        fine = random.permutation(np.repeat(np.arange(100), each)).tolist()
        fields = {
            "data": random.integers(0, 256, (len(fine), 3072)).astype(np.uint8),
            "fine_labels": fine,
            "coarse_labels": [coarse.index(tree.coarse_names[tree.parent_C[label]]) for label in fine],
            "filenames": [f"{i}.png" for i in fine],
            "batch_label": f"{part} batch 1 of 1",
        }
        write_pickle(folder / part, fields)
    return folder


def test_cifar100_is_read_from_its_pickles(cifar):
    dataset = data.load("cifar100")
    with (cifar / "train").open("rb") as file:
        fields = pickle.load(file, encoding="latin1")
    assert dataset.taxonomy.names[:2] == ("apple", "aquarium_fish")
    assert dataset.train.images.shape == (100, 3, 32, 32)
    assert np.array_equal(dataset.train.images.numpy().reshape(100, 3072), fields["data"])
    assert dataset.train.labels.tolist() == fields["fine_labels"]
    for half in (dataset.val, dataset.test):
        assert sorted(half.labels.tolist()) == list(range(100))
    pixels = fields["data"].reshape(100, 3, 1024) / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2)).tolist())
    assert dataset.std == pytest.approx(pixels.std((0, 2)).tolist())
    assert data.load("cifar100", image_size=8).train.images.shape == (100, 3, 8, 8)


def test_a_pickle_that_calls_something_is_refused(cifar):
    class Evil:
        def __reduce__(self):
            return print, ("this must not be printed",)

    (cifar / "train").write_bytes(pickle.dumps({"data": Evil()}, 2))
    with pytest.raises(DataError, match=r"it wants to call .*print"):
        data.load("cifar100")


def test_coarse_labels_that_contradict_the_taxonomy_are_named(cifar):
    with (cifar / "test").open("rb") as file:
        fields = pickle.load(file, encoding="latin1")
    apple = fields["fine_labels"].index(0)
    fields["coarse_labels"][apple] = (fields["coarse_labels"][apple] + 1) % 20
    write_pickle(cifar / "test", fields)
    with pytest.raises(DataError, match=r"differ from the shipped taxonomy for \{'apple'"):
        data.load("cifar100")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fine_labels", 100, r"fine_labels of image 3 is 100: expected 0 to 99$"),
        ("fine_labels", -1, r"fine_labels of image 3 is -1: expected 0 to 99$"),
        ("coarse_labels", 20, r"coarse_labels of image 3 is 20: expected 0 to 19$"),
        ("fine_labels", "apple", r"cifar-100-python/test is not in CIFAR-100's format"),
        ("fine_labels", None, r"cifar-100-python/test is not in CIFAR-100's format"),
        ("data", None, r"cifar-100-python/test is not in CIFAR-100's format"),
    ],
)
def test_labels_that_are_none_and_keys_that_are_missing_are_named(cifar, key, value, message):
    with (cifar / "test").open("rb") as file:
        fields = pickle.load(file, encoding="latin1")
    if value is None:
        del fields[key]
    else:
        fields[key] = [*fields[key][:3], value, *fields[key][4:]]
    write_pickle(cifar / "test", fields)
    with pytest.raises(DataError, match=message):
        data.load("cifar100")


def test_a_torn_cifar_file_is_named(cifar):
    (cifar / "train").write_bytes((cifar / "train").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cifar-100-python/train can't be read"):
        data.load("cifar100")


def jpeg(path, shade, size=(64, 64), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode == "L" else (shade,) * 3).save(path, quality=95)


@pytest.fixture
def cub(tmp_path):
    folder = tmp_path / "data" / "CUB_200_2011"
    folder.mkdir(parents=True)
    tables = {name: [] for name in ("classes", "images", "image_class_labels", "train_test_split")}
    number = 0
    for label, name in enumerate(shipped("cub200").names, start=1):
        directory = f"{label:03}.{name.replace('-', '_')}"
        tables["classes"].append(f"{label} {directory}")
        for trains in (1, 0, 0):
            number += 1
            path = f"{directory}/{name}_{number:04}.jpg"
            jpeg(folder / "images" / path, label, size=(40, 32))
            tables["images"].append(f"{number} {path}")
            tables["image_class_labels"].append(f"{number} {label}")
            tables["train_test_split"].append(f"{number} {trains}")
    for name, rows in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return folder


def test_cub200_is_read_from_its_tables(cub):
    dataset = data.load("cub200", image_size=28)
    assert dataset.train.images.shape == (200, 3, 28, 28)
    assert (len(dataset.val), len(dataset.test)) == (200, 200)
    assert (dataset.mean, dataset.std) == (IMAGENET_MEAN, IMAGENET_STD)
    for split in (dataset.train, dataset.val, dataset.test):  # the shade of an image is its class's number
        assert (split.images[:, 0, 14, 14].int() - split.labels - 1).abs().max() <= 1
    assert "Swamp-Sparrow" in dataset.taxonomy.notes[0]


def test_cub200_can_be_cut_from_the_photographs_as_they_are(cub):
    """Another cut of the same files is decoded beside the first, and is another data set to every trial."""
    whole = Image.new("RGB", (100, 60), "black")
    whole.paste((200, 200, 200), (40, 20, 60, 40))  # in the middle 20 pixels
    path = cub / "images" / (cub / "images.txt").read_text().split()[1]
    whole.save(path, quality=100)
    shares = {}
    for resize in (8 / 7, 1.0, 0.0):
        config = TrialConfig(dataset="cub200", image_size=28, **{"cub200.resize": resize})
        split = data.load(config).train
        shares[resize] = (split.images[split.labels == 0][0, 0] > 100).float().mean().item()
    assert shares[0.0] == pytest.approx(20**2 / 28**2, abs=0.03)
    assert shares[1.0] == pytest.approx((20 / 60) ** 2, abs=0.03)
    assert shares[1.0] < shares[8 / 7] < shares[0.0]


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("classes", "002.Laysan_Albatross", "002.Swamp_Sparrow", "class names are not those"),
        ("image_class_labels", "\n7 3\n", "\n", "image 7 has no class"),
        ("images", "\n7 ", "\n7", "expected lines of fields"),
    ],
)
def test_tables_that_do_not_fit_are_named(cub, table, old, new, message):
    path = cub / f"{table}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        data.load("cub200")


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "data" / "tinyimagenet" / "tiny-imagenet-200"
    fields = shipped_json("tinyimagenet")
    folder.mkdir(parents=True)
    spoken = [name.replace("-", " ") for name in fields["classes"]]
    words = [f"{wnid}\t{name}, another name" for wnid, name in zip(fields["wnids"], spoken, strict=True)]
    (folder / "wnids.txt").write_text("\n".join(reversed(fields["wnids"])))
    (folder / "words.txt").write_text("\n".join(["n00001740\tentity", *words]))
    annotations = []
    for label, wnid in enumerate(fields["wnids"]):
        jpeg(folder / "train" / wnid / "images" / f"{wnid}_0.JPEG", label, mode="L" if label % 2 else "RGB")
        for i in range(2):
            name = f"val_{2 * label + i}.JPEG"
            jpeg(folder / "val" / "images" / name, label)
            annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(annotations) + "\n")
    return folder


def test_tinyimagenet_is_read_from_its_folders(tiny):
    dataset = data.load("tinyimagenet")
    assert dataset.train.images.shape == (200, 3, 64, 64)
    assert (len(dataset.val), len(dataset.test)) == (200, 200)
    for split in (dataset.train, dataset.val, dataset.test):  # the shade of an image is its label
        assert (split.images[:, 1, 32, 32].int() - split.labels).abs().max() <= 1
    assert "95" in dataset.taxonomy.notes[0]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("wnids.txt", "n01443537", "n01443538", "not TinyImageNet's list.*n01443537"),
        ("words.txt", "goldfish", "carp", "n01443537 is not called 'goldfish'"),
        ("val/val_annotations.txt", "\tn01443537\t", "\tn01443530\t", "unknown class 'n01443530'.*did you mean"),
    ],
)
def test_lists_that_do_not_fit_are_named(tiny, file, old, new, message):
    path = tiny / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        data.load("tinyimagenet")


def test_a_missing_file_in_a_table_is_named(tiny):
    next((tiny / "val" / "images").iterdir()).unlink()
    with pytest.raises(DataError, match=r"val_\d+\.JPEG"):
        data.load("tinyimagenet")


@pytest.mark.parametrize(
    ("name", "url"),
    [("cifar100", "cs.toronto.edu"), ("cub200", "data.caltech.edu"), ("tinyimagenet", "cs231n.stanford.edu")],
)
def test_absent_data_says_where_to_get_it_and_where_to_put_it(name, url, tmp_path):
    with pytest.raises(DataError, match=rf"(?s){tmp_path}.*{url}.*LARESA_DATA"):
        data.load(name)
    with pytest.raises(DataError, match=r"/elsewhere"):
        data.load(name, root="/elsewhere")
    assert data.folds(name) == 2
