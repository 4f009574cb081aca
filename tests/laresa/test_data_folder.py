"""A user's folder: how it is read, cut, cached and shared, and what is refused."""

import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from laresa import data
from laresa.config import TrialConfig
from laresa.data import cache, seals
from laresa.data.dataset import resize
from laresa.data.report import check, describe
from laresa.errors import ConfigError, DataError

GROUPS = {"bird": ["owl", "duck"], "tool": ["saw"]}
COLOURS = {"owl": (250, 0, 0), "duck": (0, 250, 0), "saw": (0, 0, 250)}


def picture(path, colour, size=(20, 16), shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(max(0, c - shade) for c in colour)).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "mine"
    for name, colour in COLOURS.items():
        for i in range(4):
            picture(root / "train" / name / f"{i}.png", colour, shade=i)
        for i in range(6):
            picture(root / "test" / name / f"{i}.png", colour, shade=10 + i)
    (root / "taxonomy.json").write_text(json.dumps({"groups": GROUPS}))
    return root


def pixels(split):
    return {(int(label), int(image.amax())) for image, label in zip(split.images, split.labels, strict=True)}


def test_a_folder_without_val_is_cut_in_halves_class_by_class(root):
    dataset = data.load(str(root))
    assert dataset.name == "mine"
    assert dataset.taxonomy.names == ("owl", "duck", "saw")
    assert dataset.train.images.shape == (12, 3, 16, 16)  # the shorter side of its images
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.train.labels.dtype == torch.int64
    assert dataset.train.images[0, :, 8, 8].tolist() == [250, 0, 0]
    for split in (dataset.val, dataset.test):
        assert torch.bincount(split.labels).tolist() == [3, 3, 3]
    assert not pixels(dataset.val) & pixels(dataset.test)
    assert len(pixels(dataset.val) | pixels(dataset.test)) == 18
    assert "cut 50/50 by split_seed=42" in dataset.fold_note


def test_the_split_seed_cuts_and_the_second_fold_exchanges_the_halves(root):
    first, other = (data.load(str(root), split_seed=seed) for seed in (1, 2))
    swapped = data.load(str(root), split_seed=1, fold=1)
    assert pixels(first.test) != pixels(other.test)
    assert pixels(first.test) == pixels(swapped.val)
    assert pixels(first.val) == pixels(swapped.test)
    assert first.fingerprint == other.fingerprint == swapped.fingerprint
    assert data.folds(str(root)) == 2
    with pytest.raises(DataError, match="2 folds"):
        data.load(str(root), fold=2)


def test_a_folder_with_val_has_one_fold(root):
    picture(root / "val" / "owl" / "a.png", (9, 9, 9))
    dataset = data.load(str(root))
    assert (len(dataset.val), len(dataset.test)) == (1, 18)
    assert data.folds(str(root)) == 1


def test_the_cut_is_even_also_with_odd_numbers():
    labels = np.repeat(np.arange(7), [5, 3, 1, 1, 4, 7, 9])
    order, half = cache.cut(labels, 0)
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert half == len(labels) // 2
    first, second = (np.bincount(labels[part], minlength=7) for part in (order[:half], order[half:]))
    assert np.abs(first - second).max() == 1
    assert abs(int((first - second).sum())) <= 1


def test_images_are_scaled_by_the_shorter_side_and_cut_from_the_centre(root):
    stripes = np.zeros((40, 80, 3), np.uint8)
    stripes[:, 20:60] = 200  # the middle square
    Image.fromarray(stripes).save(root / "train" / "owl" / "0.png")
    image = data.load(str(root), image_size=10).train.images[0]
    assert image.shape == (3, 10, 10)
    assert (image[:, :, 1:-1] == 200).all()


def test_shrinking_averages_instead_of_picking_pixels(root):
    board = np.indices((64, 64)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(root / "train" / "owl" / "0.png")
    image = data.load(str(root), image_size=16).train.images[0].int()
    assert (image - 127).abs().max() <= 8


def test_grey_palette_transparent_and_turned_images_are_read(root):
    folder = root / "train" / "owl"
    Image.new("L", (16, 16), 77).save(folder / "0.png")
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(folder / "1.png")
    Image.new("RGB", (16, 16), (1, 200, 3)).quantize(4).save(folder / "2.gif")
    turned = Image.new("RGB", (16, 16), "white")
    turned.paste((0, 0, 0), (0, 0, 16, 8))  # dark above; the tag says: turn by 180 degrees
    exif = Image.Exif()
    exif[0x0112] = 3
    turned.save(folder / "3.jpg", exif=exif, quality=95)
    for name in ("2.png", "3.png"):
        (folder / name).unlink()
    images = data.load(str(root)).train.images[:4]
    assert images[0].unique().tolist() == [77]
    assert images[1].unique().tolist() == [255]
    assert images[2, :, 0, 0].tolist() == pytest.approx([1, 200, 3], abs=2)
    assert images[3, 0, 12, 8] < 30 < 220 < images[3, 0, 3, 8]


def test_it_is_decoded_once_and_mapped_not_copied(root, monkeypatch):
    first = data.load(str(root))
    monkeypatch.setattr("laresa.data.pictures.read", lambda *a, **k: pytest.fail("decoded again"))
    again = data.load(str(root))
    assert torch.equal(first.train.images, again.train.images)
    assert again.fingerprint == first.fingerprint
    folder = data.prepare(str(root))
    maps = Path("/proc/self/maps")  # Linux only
    if maps.exists():
        mapped = {line.split()[-1] for line in maps.read_text().splitlines()}
        assert {str(folder / "images.npy"), str(folder / "cut-42.npy")} <= mapped


def test_a_changed_file_is_seen(root):
    before = data.load(str(root))
    picture(root / "train" / "owl" / "0.png", (123, 45, 67), size=(21, 16))
    after = data.load(str(root))
    assert after.fingerprint != before.fingerprint
    assert after.train.images[0, :, 8, 8].tolist() == [123, 45, 67]


def _prepare(root, results):
    results.put((str(data.prepare(root)), data.load(root).fingerprint))


def test_two_processes_at_once_prepare_one_copy(root):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_prepare, args=(str(root), results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {results.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1
    (folder, _) = found.pop()
    assert folder.startswith(str(root.parent / "cache" / "laresa" / "data" / "mine-"))
    assert [p.name for p in (root.parent / "cache" / "laresa" / "data").iterdir() if not p.name.startswith(".")] == [
        folder.rsplit("/", 1)[1]
    ]


def test_what_a_killed_process_left_is_swept_away(root):
    folder = data.prepare(str(root))
    shutil.rmtree(folder)
    stale = folder.with_name(folder.name + ".dead.part")
    stale.mkdir()
    assert data.prepare(str(root)) == folder
    assert not stale.exists()


def test_a_failed_preparation_leaves_nothing(root):
    (root / "test" / "saw" / "5.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"test/saw/5\.png does not decode.*mend or remove"):
        data.load(str(root))
    assert [p for p in (root.parent / "cache" / "laresa" / "data").iterdir() if not p.name.startswith(".")] == []


def test_a_cache_that_cannot_be_written_is_named(root, monkeypatch):
    (root.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "file"))
    with pytest.raises(DataError, match=r"can't prepare mine.*XDG_CACHE_HOME"):
        data.load(str(root))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system can't reserve room on a disk")
@pytest.mark.parametrize("call", [0, 1], ids=["images", "cut"])
def test_a_full_disk_is_an_error_not_a_crash(root, monkeypatch, call):
    reserve, calls = os.posix_fallocate, []

    def full(*args):
        calls.append(args)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(*args)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="No space left"):
        data.load(str(root))
    assert len(data.load(str(root)).test) == 9  # and with room again it goes on


def test_bad_images_are_left_out_only_when_asked(root, caplog):
    whole = (root / "train" / "owl" / "2.png").read_bytes()
    (root / "train" / "owl" / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train/owl/2\.png"):
        data.load(str(root))
    dataset = data.load(str(root), skip_bad=True)
    assert "train/owl/2.png" in caplog.text
    assert torch.bincount(dataset.train.labels).tolist() == [3, 4, 4]
    assert "1 images left out" in dataset.fold_note
    with pytest.raises(DataError, match=r"train/owl/2\.png"):  # what was asked once is not remembered
        data.load(str(root))


def test_a_class_that_loses_all_its_images_is_an_error(root):
    for path in (root / "train" / "saw").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="no training image of 'saw'"):
        data.load(str(root), skip_bad=True)


def _empty(folder):
    for path in folder.rglob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "taxonomy.json").write_text('{"classes": ["owl", "duck"]}'), "'saw' is not in taxonomy.json"),
        (lambda r: (r / "taxonomy.json").write_text('{"groups": {"bird": ["owl", "duk"], "tool": ["saw"]}}'), "'duk'"),
        (
            lambda r: (r / "taxonomy.json").write_text('{"groups": {"a": ["owl", "duck"], "b": ["saw", "owl"]}}'),
            "repeated",
        ),
        (lambda r: picture(r / "train" / "duk" / "0.png", (1, 1, 1)), "'duk' is not in taxonomy.*did you mean 'duck'"),
        (lambda r: picture(r / "test" / "sow" / "0.png", (1, 1, 1)), "'sow' is not in taxonomy.*did you mean 'saw'"),
        (lambda r: shutil.rmtree(r / "train" / "saw"), "no image of 1 classes: 'saw'"),
        (lambda r: _empty(r / "train" / "saw"), "no image of 1 classes: 'saw'"),
        (lambda r: _empty(r / "test"), "empty test split"),
        (lambda r: (r / "val").mkdir(), "empty val split"),
        (lambda r: shutil.rmtree(r / "test"), "test is missing"),
        (lambda r: picture(r / "train" / "owl" / "more" / "0.png", (1, 1, 1)), "no folders"),
        (lambda r: picture(r / "train" / "0.png", (1, 1, 1)), "no folder of a class"),
    ],
)
def test_what_is_refused(root, spoil, message):
    spoil(root)
    with pytest.raises(DataError, match=message):
        data.load(str(root))


def test_a_folder_without_a_taxonomy_is_a_flat_data_set(root):
    deep = data.load(str(root))
    (root / "taxonomy.json").unlink()
    flat = data.load(str(root))
    assert flat.taxonomy.flat
    assert flat.taxonomy.names == ("duck", "owl", "saw")  # the folders of train/, sorted
    assert torch.bincount(flat.test.labels).tolist() == [3, 3, 3]
    assert flat.train.images[0, :, 8, 8].tolist() == [0, 250, 0]
    assert flat.fingerprint != deep.fingerprint
    assert "no tree over the classes" in "".join(check(str(root)))
    picture(root / "test" / "sow" / "0.png", (1, 1, 1))
    with pytest.raises(DataError, match="'sow' is not in train; did you mean 'saw'"):
        data.load(str(root))
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match="train is missing"):
        data.load(str(root))


def test_a_flat_data_set_may_describe_its_classes(root):
    words = {"owl": "hunts", "duck": "swims", "saw": "cuts"}
    (root / "taxonomy.json").write_text(json.dumps({"classes": list(words), "descriptions": words}))
    tree = data.load(str(root)).taxonomy
    assert tree.flat
    assert tree.texts("description") == ("hunts", "swims", "cuts")


def test_exchanged_splits_judge_by_what_the_fold_tests(root):
    config = TrialConfig(dataset=str(root), split_seed=3)
    plain, exchanged = data.load(config), data.load(config.replace(exchange_splits=True))
    assert torch.equal(plain.val.images, exchanged.test.images)
    assert torch.equal(plain.test.images, exchanged.val.images)
    assert torch.equal(plain.train.images, exchanged.train.images)
    assert exchanged.fold_note == f"{plain.fold_note}; validation and test part exchanged"
    assert data.data_key(config) != data.data_key(config.replace(exchange_splits=True))


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "meta.json", "images.seal", "cut-42.npy", "cut-42.seal"])
@pytest.mark.parametrize("damage", ["flipped", "cut off", "emptied", "gone"])
def test_a_damaged_cache_is_decoded_anew(root, name, damage, monkeypatch):
    loaded = data.load(str(root))
    parts = {part: getattr(loaded, part) for part in ("train", "val", "test")}
    whole = {part: (split.images.clone(), split.labels.clone()) for part, split in parts.items()}
    path = data.prepare(str(root)) / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[-1] ^= 1
        path.write_bytes({"flipped": content, "cut off": content[:-1], "emptied": b""}[damage])
    monkeypatch.setattr(seals, "_unbroken", set())  # as another process
    again = data.load(str(root))
    assert again.fingerprint == loaded.fingerprint
    for part, (images, labels) in whole.items():
        assert torch.equal(getattr(again, part).images, images)
        assert torch.equal(getattr(again, part).labels, labels)
    assert [p.name for p in path.parent.parent.iterdir() if not p.name.startswith(".")] == [path.parent.name]


def test_a_file_is_hashed_once_a_process_and_a_large_one_never(root, monkeypatch):
    data.load(str(root))
    hashed = []
    sha256 = seals._sha256
    monkeypatch.setattr(seals, "_sha256", lambda path: hashed.append(path.name) or sha256(path))
    monkeypatch.setattr(seals, "_unbroken", set())
    data.load(str(root))
    data.load(str(root))
    assert sorted(hashed) == ["cut-42.npy", "images.npy", "labels.npy", "meta.json"]
    monkeypatch.setattr(seals, "HASHED", 0)
    folder = data.prepare(str(root))
    os.utime(folder / "images.npy")  # somebody wrote to it
    hashed.clear()
    data.prepare(str(root))
    assert sorted(hashed) == ["images.npy", "labels.npy", "meta.json"], "sealed, decoded anew"


def test_images_that_the_disk_has_no_room_for_are_refused_before(root, monkeypatch):
    usage = shutil.disk_usage(root)._replace(free=30 * 3 * 16 * 16 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"30 images at image_size=16 take .* GB.*XDG_CACHE_HOME on another disk"):
        data.load(str(root))
    with pytest.raises(ConfigError, match="image_size=100000: expected less than or equal to 4096"):
        TrialConfig(image_size=100000)


def test_images_that_the_memory_has_no_room_for_are_refused_before():
    with pytest.raises(DataError, match=r"image_size=1000000 take .* GB of memory"):
        resize(np.zeros((2, 3, 8, 8), np.uint8), 1_000_000)


def test_sixteen_bits_are_scaled(root):
    folder = root / "train" / "owl"
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(folder / "0.png")
    Image.fromarray(ramp).save(folder / "1.tif")
    (folder / "1.png").unlink()
    images = data.load(str(root)).train.images[:2]
    for image in images:
        assert torch.equal(image.reshape(3, -1), torch.arange(256, dtype=torch.uint8).expand(3, -1))


@pytest.mark.parametrize(("mode", "message"), [("F", "floating-point numbers"), ("I", "32-bit numbers")])
def test_numbers_without_a_range_are_refused(root, mode, message):
    Image.new(mode, (16, 16), 1).save(root / "train" / "owl" / "x.tif")
    with pytest.raises(DataError, match=rf"x\.tif has {message} as pixels.*convert it to 8 or 16 bits"):
        data.load(str(root))
    assert message in check(str(root))[0]


def test_inks_and_palettes_are_read(root):
    folder = root / "train" / "owl"
    Image.new("CMYK", (16, 16), (255, 0, 255, 0)).save(folder / "0.tif")
    Image.new("RGB", (16, 16), (1, 200, 3)).convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "1.gif")
    for name in ("0.png", "1.png"):
        (folder / name).unlink()
    images = data.load(str(root), image_size=16).train.images
    assert images[0, :, 0, 0].tolist() == [0, 255, 0]
    assert images[1, :, 0, 0].tolist() == pytest.approx([1, 200, 3], abs=2)


def test_a_strip_is_refused(root):
    Image.new("RGB", (1, 20_000)).save(root / "train" / "owl" / "strip.png")
    with pytest.raises(DataError, match=r"strip\.png has 1 x 20000 pixels: expected no side 100 times"):
        data.load(str(root), image_size=16)


def test_file_names_need_not_be_text(root):
    source = root / "train" / "owl" / "0.png"
    os.rename(os.fsencode(source), os.fsencode(source.parent) + b"/\xff\xfe.png")
    assert len(data.load(str(root)).train) == 12


def test_hidden_files_are_passed_over(root):
    (root / "train" / ".DS_Store").write_text("")
    (root / "train" / "owl" / ".hidden").write_text("")
    assert len(data.load(str(root)).train) == 12


def test_check_tells_what_is_worth_knowing(root):
    assert check(str(root)) == ["1 groups hold one class only: tool"]
    (root / "test" / "saw" / "0.png").write_bytes((root / "train" / "saw" / "0.png").read_bytes())
    for i in range(1, 6):
        (root / "test" / "saw" / f"{i}.png").unlink()
    for i in range(40):
        picture(root / "train" / "owl" / f"more{i}.png", (i, 99, 99))
    findings = "\n".join(check(str(root)))
    assert "1 classes have no" in findings
    assert "differ widely: 4 of 'duck', 44 of 'owl'" in findings
    assert "have the very pixels of a train image" in findings
    shutil.rmtree(root / "test")
    assert len(check(str(root))) == 1


def test_describe_lists_all_and_says_what_is_present(tmp_path):
    records = {record["name"]: record for record in describe(tmp_path)}
    assert tuple(records) == data.names()
    assert records["emoji120"]["present"]
    assert (records["emoji120"]["images"], records["emoji120"]["folds"]) == (931, 6)
    assert not records["cub200"]["present"]
    (tmp_path / "CUB_200_2011").mkdir()
    (tmp_path / "CUB_200_2011" / "images.txt").write_text("")
    assert {record["name"]: record["present"] for record in describe(tmp_path)}["cub200"]
