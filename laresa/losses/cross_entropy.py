"""Cross-entropy: the base term that every other is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from laresa.terms import Head, Term

if TYPE_CHECKING:
    from laresa.batch import Batch
    from laresa.taxonomy import Taxonomy


def ce(batch: Batch) -> Tensor:
    """- sum_c t_c log softmax(logits)_c, a scalar; t is one-hot unless images were mixed."""
    return functional.cross_entropy(batch.logits, batch.target_NC if batch.mixed else batch.y_N)


def _leaves(tree: Taxonomy) -> int:
    return tree.leaves


def _log_softmax(logits_NC: Tensor, tree: Taxonomy) -> Tensor:
    return logits_NC.log_softmax(-1)


CLASSES = Head(_leaves, _log_softmax)  # one logit a class

TERMS = {"ce": Term(ce, base=CLASSES, labels=False)}
