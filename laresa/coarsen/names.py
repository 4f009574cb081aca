"""What groups are called: like their most typical class, or by WordNet's word for all of it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from laresa.errors import ConfigError

# (members of each group, each group's medoid, all classes) -> a name each: unique, and none a class's.
Naming = Callable[[Sequence[Sequence[str]], Sequence[str], Sequence[str]], list[str]]

# Above these WordNet has nothing to say: they are hypernyms of nearly every noun.
WIDE = frozenset({"entity", "physical_entity", "abstraction", "object", "whole", "matter", "thing", "causal_agent"})


def like_medoid() -> Naming:
    """ "like maple_tree": of another kind of name than the classes', so that none is taken for a class."""
    return _by_medoid


def by_wordnet() -> Naming:
    """The lowest common hypernym of the members' first noun senses (WordNet, Miller 1995; by nltk, which no data set
    needs and so isn't required). A group that has none, or one as wide as "object", is called like its medoid.
    ConfigError: nltk or its corpus isn't there.
    """
    if importlib.util.find_spec("nltk") is None:
        raise ConfigError("--names wordnet needs nltk, which is not installed: pip install nltk, or --names medoid")
    wordnet: Any = importlib.import_module("nltk.corpus").wordnet
    try:
        wordnet.synsets("entity", pos="n")  # the corpus is read when it is first asked
    except LookupError as error:
        raise ConfigError(
            "--names wordnet needs nltk's corpus wordnet, which is not installed: python -m nltk.downloader wordnet, "
            "or --names medoid"
        ) from error
    return functools.partial(_by_wordnet, wordnet)


NAMINGS: Mapping[str, Callable[[], Naming]] = {"medoid": like_medoid, "wordnet": by_wordnet}


def _by_medoid(members: Sequence[Sequence[str]], medoids: Sequence[str], classes: Sequence[str]) -> list[str]:
    return _unique([f"like {medoid}" for medoid in medoids], medoids, classes)


def _by_wordnet(
    wordnet: Any, members: Sequence[Sequence[str]], medoids: Sequence[str], classes: Sequence[str]
) -> list[str]:
    said = [_common(wordnet, group) for group in members]
    return _unique([name or f"like {medoid}" for name, medoid in zip(said, medoids, strict=True)], medoids, classes)


def _common(wordnet: Any, group: Sequence[str]) -> str:
    """ "" if there is none worth saying."""
    senses = [found[0] for name in group if (found := wordnet.synsets(_lemma(name), pos="n"))]
    if len(senses) < 2:  # of one class it would be the class's own name
        senses = [parent for sense in senses for parent in sense.hypernyms()[:1]]
    if not senses:
        return ""
    common = senses[0]
    for sense in senses[1:]:
        shared = common.lowest_common_hypernyms(sense)
        if not shared:
            return ""
        common = shared[0]
    name = str(common.lemma_names()[0])
    return "" if name in WIDE else name.replace("_", " ")


def _lemma(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip()).lower()


def _unique(names: Sequence[str], medoids: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Names that stand twice, or are a class's, say which of them is meant; what still does gets a number."""
    taken, found = set(classes), list[str]()
    for name, medoid in zip(names, medoids, strict=True):
        tries = [name] if names.count(name) == 1 else []
        tries += [f"{name} (like {medoid})"] if not name.startswith("like ") else []
        tries += [f"{name} {number}" for number in range(2, len(names) + len(classes) + 3)]
        chosen = next(attempt for attempt in tries if attempt not in taken)
        taken.add(chosen)
        found.append(chosen)
    return found
