"""Augmentation on batches, against loops over single images and against torchvision."""

import pytest
import torch
import torchvision.transforms as tv1
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy, _apply_op
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from laresa.data.augment import augment, crop_flip, normalise, random_boxes, resized_crop
from laresa.data.autoaugment import LEVELS, OPERATIONS, SIGNED, WARPS, autoaugment
from laresa.errors import ConfigError, DataError

ALL = ("autoaugment", "resizedcrop", "crop", "flip")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def augmented(images, names, seed=0):
    changed, target = augment(
        images, torch.arange(len(images)), {name: {} for name in names}, generator(seed), classes=9
    )
    assert target is None
    return changed


@pytest.fixture
def images():
    return torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=generator(99))


def padded(image, pad):
    big = torch.zeros(3, image.shape[1] + 2 * pad, image.shape[2] + 2 * pad, dtype=torch.uint8)
    big[:, pad:-pad, pad:-pad] = image
    return big


def test_each_crop_and_flip_is_one_that_a_loop_over_places_finds(images):
    seen = set()
    for before, after in zip(images, crop_flip(images, generator()), strict=True):
        found = [
            (top, left, flipped)
            for flipped in (False, True)
            for top in range(9)
            for left in range(9)
            if torch.equal(
                after, padded(before.flip(-1) if flipped else before, 4)[:, top : top + 32, left : left + 32]
            )
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 15  # each image its own draw
    assert {flipped for *_, flipped in seen} == {False, True}


def test_offsets_are_uniform_over_the_places_and_half_is_flipped():
    ramp = torch.arange(1, 33, dtype=torch.uint8).expand(20_000, 3, 32, 32)
    rows = crop_flip(ramp, generator())[:, 0, 16]
    flipped = rows[:, 15] > rows[:, 16]
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.015)
    left = rows[~flipped][:, 16].long() - 13  # column 16 shows value 13 + offset
    share = torch.bincount(left, minlength=9) / len(left)
    assert share.numpy() == pytest.approx([1 / 9] * 9, abs=0.012)


def test_flip_alone_moves_nothing_else(images):
    after = augmented(images, ("flip",))
    same = [torch.equal(a, b) for a, b in zip(after, images, strict=True)]
    turned = [torch.equal(a, b.flip(-1)) for a, b in zip(after, images, strict=True)]
    assert all(s != t for s, t in zip(same, turned, strict=True))
    assert 0 < sum(turned) < len(images)


def test_padding_grows_with_the_image():
    white = torch.full((400, 3, 64, 64), 255, dtype=torch.uint8)
    black_rows = (augmented(white, ("crop",))[:, 0, :, 32] == 0).sum(1)
    assert black_rows.max().item() == 8


@pytest.mark.parametrize("name", ALL)
def test_a_seed_repeats_and_another_differs(images, name):
    first, again = (augmented(images, (name,), 5) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augmented(images, (name,), 6))


def test_result_is_uint8_of_the_same_shape_and_the_input_stays(images):
    before = images.clone()
    after = augmented(images, ALL)
    assert after.dtype == torch.uint8
    assert after.shape == images.shape
    assert torch.equal(images, before)
    assert torch.equal(augmented(images, ()), images)


def test_the_order_of_the_names_does_not_matter(images):
    assert torch.equal(augmented(images, ALL), augmented(images, ALL[::-1]))


def test_what_is_refused(images):
    with pytest.raises(ConfigError, match="did you mean 'crop'"):
        augmented(images, ("cropp",))
    with pytest.raises(DataError, match=r"torch\.float32"):
        augmented(images.float(), ("crop",))


def test_resized_crop_is_the_bilinear_enlargement_of_each_box(images):
    boxes = random_boxes(len(images), 32, 32, generator(1))
    after = resized_crop(images, generator(1))
    for image, result, (top, left, height, width) in zip(images, after, boxes.tolist(), strict=True):
        box = image[None, :, top : top + height, left : left + width].float()
        expected = torch.nn.functional.interpolate(box, (32, 32), mode="bilinear", align_corners=False)[0].round()
        assert (result.float() - expected).abs().max() <= 1  # the two round at different places


def test_boxes_are_distributed_as_torchvisions():
    boxes = random_boxes(4000, 32, 48, generator()).double()
    top, left, height, width = boxes.unbind(1)
    assert ((top >= 0) & (left >= 0) & (top + height <= 32) & (left + width <= 48) & (height > 0) & (width > 0)).all()
    torch.manual_seed(0)
    example = torch.zeros(3, 32, 48)
    theirs = [tv1.RandomResizedCrop.get_params(example, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    reference = torch.tensor(theirs, dtype=torch.float64)
    assert boxes.mean(0).numpy() == pytest.approx(reference.mean(0).numpy(), rel=0.05)
    assert boxes.std(0).numpy() == pytest.approx(reference.std(0).numpy(), rel=0.06)


def test_a_long_image_gets_the_largest_box_that_the_aspect_allows():
    # Of a 1:40 image nearly no draw fits: the fallback is the centred box of aspect 4:3.
    boxes = random_boxes(200, 4, 160, generator())
    fallback = (boxes == torch.tensor([0, 77, 4, 5])).all(1)
    assert fallback.float().mean() > 0.5


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("size", [32, 48])
def test_operations_are_torchvisions(name, size):
    images = torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8, generator=generator(3))
    space = AutoAugment()._augmentation_space(LEVELS + 1, (size, size))
    magnitudes, signed = space[name]
    assert signed == (name in SIGNED)
    for level in (2, 6, 9) if magnitudes.ndim else (0,):
        for sign in (1, -1) if signed else (1,):
            magnitude = float(magnitudes[level]) * sign if magnitudes.ndim else 0.0
            ours = OPERATIONS[name](images, sign * level)
            for image, result in zip(images, ours, strict=True):
                theirs = _apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)
                assert (result.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [(17, 17), (32, 32), (64, 65), (224, 224)])
def test_what_is_done_here_equals_torchvision_to_the_bit(size: tuple[int, int]):
    """Of noise, of few values, of one value, of a black half; warps at every magnitude."""
    noise = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator(4))
    half = noise.clone()
    half[:, :, : size[0] // 2] = 0
    for images in (noise, noise // 40, torch.full_like(noise, 7), half):
        assert torch.equal(OPERATIONS["Equalize"](images, 0.0), tv.equalize(images))
        for level in range(-9, 10, 3):
            factor = 1.0 + 0.9 * level / LEVELS
            assert torch.equal(OPERATIONS["Sharpness"](images, level), tv.adjust_sharpness(images, factor))
            assert torch.equal(
                OPERATIONS["Solarize"](images, abs(level)), tv.solarize(images, 255.0 * (1 - abs(level) / LEVELS))
            )
            for name, warp in WARPS.items():
                assert torch.equal(OPERATIONS[name](images, level), warp(images, level)), (name, level)


def test_each_image_follows_one_sub_policy(images):
    policies = AutoAugment(AutoAugmentPolicy.CIFAR10).policies

    def reachable(image):
        """Every result that some sub-policy can give, by applying its steps to the one image."""
        for first, second in policies:
            for with_first in (False, True):
                for with_second in (False, True):
                    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                        result = image[None]
                        for (name, _, level), use, sign in (
                            (first, with_first, signs[0]),
                            (second, with_second, signs[1]),
                        ):
                            if use:
                                result = OPERATIONS[name](result, (level or 0) * (sign if name in SIGNED else 1))
                        yield result[0]

    some = images[:3]
    for before, after in zip(some, autoaugment(some, generator(2)), strict=True):
        assert any(torch.equal(after, candidate) for candidate in reachable(before))


def test_autoaugment_keeps_the_probabilities_of_its_table():
    # ImageNet's table (above 32 pixels) inverts with .6 in 3 of 25 policies; on a black image only that makes white.
    black = torch.zeros(6000, 3, 33, 33, dtype=torch.uint8)
    policies = AutoAugment(AutoAugmentPolicy.IMAGENET).policies
    expected = sum(p for policy in policies for name, p, _ in policy if name == "Invert") / len(policies)
    after = autoaugment(black, generator())
    share = (after[:, 0, 16, 16] == 255).float().mean().item()
    assert expected == pytest.approx(0.072)
    assert share == pytest.approx(expected, abs=0.012)


def test_a_flip_after_another_augmentation_is_the_same_and_what_was_given_stays(images):
    before, y_N = images.clone(), torch.zeros(len(images), dtype=torch.int64)
    both, _ = augment(images, y_N, {"autoaugment": {}, "flip": {}}, generator(5), classes=2)
    same = generator(5)
    assert torch.equal(both, crop_flip(autoaugment(images, same), same, crop=False))
    augment(images, y_N, {"flip": {}}, generator(5), classes=2)
    assert torch.equal(images, before)


def test_normalise_is_the_textbook_formula(images):
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    expected = torch.stack([tv1.functional.normalize(image.float() / 255, mean, std) for image in images])
    result = normalise(images, mean, std)
    assert result.dtype == torch.float32
    assert torch.allclose(result, expected, atol=1e-5)
