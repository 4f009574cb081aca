"""Build icons158.npz from iconify's collection of icon sets on npm: the same bytes, on any machine.

Which drawings are taken, and where they go:
- Sets: of one colour, under a licence of LICENCES, no emoji, logos, flags or file types (CATEGORIES).
- Names: an icon's name, without words of style (STYLE: outline, solid, duotone, ...) and numbers, must be the class's
  name or a synonym of SYNONYMS, in the singular or plural. Nothing else is looked at, no picture was chosen by hand.
- Families: sets of one author, or whose prefixes begin alike (fa-solid, fa6-solid), are drawn by one hand. A family
  gives at most PER_FAMILY drawings of a class, the shortest names first, and none twice (NEAR).
- Groups: families that share near copies of LINKED drawings or more are put together; what then holds the most images
  goes first, to the smallest of the GROUPS groups. Of near copies in two groups the one in the later group is left out:
  no image of one group is in another. The last group is for choosing settings, and never tested.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laresa.data.drawings import fetch, member, render, svg, write
from laresa.errors import DataError

PACKAGE = "@iconify/json@2.2.535"
INTEGRITY = "sha512-nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw=="
LICENCES = ("MIT", "Apache-2.0", "ISC", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "Unlicense")
CATEGORIES = ("Emoji", "Logos", "Flags / Maps", "Programming")  # not taken
GROUPS = 11
PER_FAMILY = 3  # drawings of one class
LOOKED_AT = 8  # of a family and class, to find so many that differ
NEAR = 0.02  # mean absolute difference of two images in [0, 1] that makes them near copies
LINKED = 5
STYLE = frozenset(
    (
        *("outline", "outlined", "fill", "filled", "solid", "line", "linear", "light", "bold", "regular", "thin"),
        *("duotone", "broken", "rounded", "round", "sharp", "twotone", "tone", "thick", "heavy", "stroke", "medium"),
        *("semibold", "extralight", "black", "bulk", "curved", "flat", "simple", "basic", "glyph", "icon", "icons"),
        *("alt", "alternate", "variant", "new", "free", "remix", "micro", "mini", "sm", "lg", "px", "rec"),
        *("o", "s", "r", "l", "f"),
    )
)
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "airplane": ("plane", "aeroplane"),
    "alarm clock": ("alarm", "clock alarm"),
    "bandage": ("band aid", "bandaid"),
    "bicycle": ("bike",),
    "camera": ("photo camera",),
    "car": ("automobile",),
    "cpu": ("processor",),
    "dice": ("die",),
    "envelope": ("mail", "email", "letter"),
    "film": ("filmstrip", "film strip"),
    "flask": ("conical flask", "erlenmeyer"),
    "football": ("soccer", "soccer ball"),
    "fridge": ("refrigerator",),
    "gamepad": ("game controller", "game pad", "controller"),
    "glasses": ("eyeglasses", "eyeglass", "spectacles"),
    "hamburger": ("burger",),
    "hard drive": ("harddrive", "hdd", "hard disk", "harddisk"),
    "headphones": ("headset",),
    "home": ("house",),
    "hourglass": ("sandglass",),
    "ice cream": ("icecream",),
    "joystick": ("joy stick",),
    "lightning": ("bolt", "lightning bolt", "thunder"),
    "lock": ("padlock",),
    "medal": ("award medal",),
    "megaphone": ("bullhorn",),
    "microphone": ("mic",),
    "motorcycle": ("motorbike",),
    "paint roller": ("roller",),
    "paperclip": ("paper clip",),
    "paw": ("paw print",),
    "pill": ("capsule",),
    "puzzle": ("puzzle piece", "jigsaw"),
    "seedling": ("sprout",),
    "shirt": ("t shirt", "tshirt"),
    "sofa": ("couch",),
    "speaker": ("loudspeaker",),
    "store": ("shop", "storefront"),
    "taxi": ("cab",),
    "tv": ("television",),
    "watch": ("wristwatch",),
    "wrench": ("spanner",),
}


@dataclass(frozen=True)
class IconSet:
    """One set of the collection, as its own `info` has it."""

    prefix: str
    name: str
    author: str
    licence: str
    url: str

    @property
    def stem(self) -> str:
        """What its prefix begins with, without a number: fa of fa6-solid."""
        return re.sub(r"\d+$", "", self.prefix.split("-")[0])


@dataclass(frozen=True)
class Drawing:
    """An icon and its pixels, uint8 [size, size], black on white."""

    label: int
    family: str
    prefix: str
    name: str
    pixels: NDArray[np.uint8]


def build(out: str | Path, *, size: int = 32, classes_csv: str | Path | None = None) -> Path:
    """Write the data set to `out` (an .npz) and return its path.

    size: pixels of the square images. classes_csv: default the class list that ships, columns fine and coarse.
    DataError: npm or resvg-py is missing, the registry does not answer, or the package is not the pinned one.
    """
    rows = _classes(classes_csv)
    with (
        tempfile.TemporaryDirectory(prefix="laresa-icons-") as folder,
        fetch(PACKAGE, INTEGRITY, Path(folder) / "npm") as archive,
    ):
        sets, found = _drawings(archive, [row["fine"] for row in rows], size)
    kept = _without_copies(found)
    groups = assign(kept)
    kept = _disjoint(kept, groups)
    used = [s for s in sets if any(drawing.prefix == s.prefix for drawing in kept)]
    licences = {s.prefix: s.licence for s in used}
    return write(
        Path(out),
        {
            "images": np.stack([drawing.pixels for drawing in kept]),
            "labels": np.array([drawing.label for drawing in kept], np.int16),
            "groups": np.array([groups[drawing.family] for drawing in kept], np.int8),
            "families": np.array([drawing.family for drawing in kept]),
            "sets": np.array([drawing.prefix for drawing in kept]),
            "licences": np.array([licences[drawing.prefix] for drawing in kept]),
            "classes": np.array([row["fine"] for row in rows]),
            "coarse": np.array([row["coarse"] for row in rows]),
            "credits": np.array([f"{s.prefix}: {s.name} by {s.author}, {s.licence}, {s.url}" for s in used]),
        },
    )


def _classes(classes_csv: str | Path | None) -> list[dict[str, str]]:
    path = resources.files("laresa.data") / "icons158_classes.csv" if classes_csv is None else Path(classes_csv)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    if missing := {"fine", "coarse"} - set(rows[0] if rows else ()):
        raise DataError(f"class list {path}: no rows, or no column {', '.join(sorted(missing))}")
    return rows


# ---------------------------------------------------------------------- which drawings
def _drawings(archive: tarfile.TarFile, classes: Sequence[str], size: int) -> tuple[list[IconSet], list[Drawing]]:
    """The sets that may be taken, and their drawings of the classes; of a family the shortest names first."""
    wanted = spellings(classes)
    sets, candidates = [], list[tuple[IconSet, str, int, str]]()
    for name in sorted(n for n in archive.getnames() if re.fullmatch(r"package/json/[^/]+\.json", n)):
        fields = member(archive, name)
        if (icon_set := _permitted(fields)) is None:
            continue
        sets.append(icon_set)
        for icon, body in sorted(fields["icons"].items()):
            label = wanted.get(plain(icon))
            if label is not None and not body.get("hidden"):
                drawn = svg(body, fields.get("width", 16), fields.get("height", 16))
                candidates.append((icon_set, icon, label, drawn))
    families = families_of(sets)
    candidates.sort(key=lambda c: (c[2], families[c[0].prefix], len(c[1]), c[1], c[0].prefix))
    seen, found = Counter[tuple[str, int]](), list[Drawing]()
    for icon_set, icon, label, drawn in candidates:
        family = families[icon_set.prefix]
        seen[family, label] += 1
        if seen[family, label] <= LOOKED_AT:
            found.append(Drawing(label, family, icon_set.prefix, icon, _grey(drawn, size)))
    return sets, found


def _permitted(fields: Mapping[str, Any]) -> IconSet | None:
    info = fields["info"]
    licence = info["license"].get("spdx", "")
    if info.get("palette") or info.get("category") in CATEGORIES or licence not in LICENCES:
        return None
    return IconSet(fields["prefix"], info["name"], info["author"]["name"], licence, info["author"].get("url", ""))


def spellings(classes: Iterable[str]) -> dict[str, int]:
    """Every name that means a class -> its number."""
    found: dict[str, int] = {}
    for number, name in enumerate(classes):
        for said in (name, *SYNONYMS.get(name, ())):
            for form in (said, f"{said}s", said.removesuffix("s"), said.replace(" ", "")):
                found.setdefault(form, number)
    return found


def plain(icon: str) -> str:
    """An icon's name without words of style and numbers: "house-2-fill" is "house"."""
    words = [word for word in icon.split("-") if word not in STYLE and not re.fullmatch(r"\d+(px)?|v\d", word)]
    return " ".join(words)


def families_of(sets: Sequence[IconSet]) -> dict[str, str]:
    """prefix -> family: sets of one author or one stem, named after the first of them."""
    names = {s.prefix: s.prefix for s in sets}
    for one, other in combinations(sets, 2):
        if one.author == other.author or one.stem == other.stem:
            names = _joined(names, one.prefix, other.prefix)
    return names


def _joined(names: Mapping[str, str], one: str, other: str) -> dict[str, str]:
    """One name for both and all that share it; the one that comes first."""
    first, second = sorted((names[one], names[other]))
    return {key: first if name == second else name for key, name in names.items()}


def _grey(drawn: str, size: int) -> NDArray[np.uint8]:
    return render(drawn, size)[0]  # of one colour, so that all channels are equal


# ---------------------------------------------------------------------- near copies and groups
def near_copies(drawings: Sequence[Drawing]) -> Iterator[tuple[int, int]]:
    """Pairs of one class whose images differ by less than NEAR in the mean."""
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, drawing in enumerate(drawings):
        by_class[drawing.label].append(index)
    for members in by_class.values():
        pixels = np.stack([drawings[index].pixels for index in members]).reshape(len(members), -1).astype(np.float32)
        for row in range(len(members) - 1):
            apart = np.abs(pixels[row + 1 :] - pixels[row]).mean(1) / 255
            for other in np.flatnonzero(apart < NEAR):
                yield members[row], members[row + 1 + int(other)]


def _without_copies(drawings: Sequence[Drawing]) -> list[Drawing]:
    """PER_FAMILY of each family and class at most, in their order, no two of a family near copies."""
    copies: dict[int, set[int]] = defaultdict(set)
    for one, other in near_copies(drawings):
        if drawings[one].family == drawings[other].family:
            copies[other].add(one)
    counts, kept = Counter[tuple[str, int]](), list[int]()
    taken = set[int]()
    for index, drawing in enumerate(drawings):
        key = (drawing.family, drawing.label)
        if counts[key] < PER_FAMILY and not copies[index] & taken:
            counts[key] += 1
            taken.add(index)
            kept.append(index)
    return [drawings[index] for index in kept]


def assign(drawings: Sequence[Drawing]) -> dict[str, int]:
    """family -> group."""
    shared = Counter(
        tuple(sorted((drawings[one].family, drawings[other].family))) for one, other in near_copies(drawings)
    )
    sizes = Counter(drawing.family for drawing in drawings)
    names = {family: family for family in sizes}
    for (one, other), count in sorted(shared.items()):
        if count >= LINKED:
            names = _joined(names, one, other)
    bundles: dict[str, list[str]] = defaultdict(list)
    for family, name in sorted(names.items()):
        bundles[name].append(family)
    weights = {name: sum(sizes[family] for family in members) for name, members in bundles.items()}
    filled, found = [0] * GROUPS, dict[str, int]()
    for name in sorted(bundles, key=lambda name: (-weights[name], name)):
        group = filled.index(min(filled))
        filled[group] += weights[name]
        found |= dict.fromkeys(bundles[name], group)
    return found


def _disjoint(drawings: Sequence[Drawing], groups: Mapping[str, int]) -> list[Drawing]:
    """Without those that are near copies of one in an earlier group."""
    dropped = set[int]()
    for one, other in near_copies(drawings):
        first, second = sorted((one, other), key=lambda index: groups[drawings[index].family])
        if groups[drawings[first].family] != groups[drawings[second].family]:
            dropped.add(second)
    return [drawing for index, drawing in enumerate(drawings) if index not in dropped]
