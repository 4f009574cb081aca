"""Label smoothing: cross-entropy against a target that is a little uniform.

Source: Szegedy et al., CVPR 2016, https://arxiv.org/abs/1512.00567, sec. 7. Shapes: N samples, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt
from torch import Tensor

from laresa.fields import Doc, Range
from laresa.losses.cross_entropy import CLASSES
from laresa.terms import Term

if TYPE_CHECKING:
    from laresa.batch import Batch


def label_smoothing(
    batch: Batch,
    *,
    epsilon: Annotated[float, Ge(0), Lt(1), Range(0.01, 0.3), Doc("share spread evenly over all classes")] = 0.1,
) -> Tensor:
    """- sum_c t_c log p_c with t = (1 - epsilon) onehot + epsilon / C, per sample (N). As F.cross_entropy has it."""
    log_p_NC = batch.logits.log_softmax(-1)
    own_N = (log_p_NC * batch.target_NC).sum(-1)
    return -((1 - epsilon) * own_N + epsilon * log_p_NC.mean(-1))


TERMS = {"label_smoothing": Term(label_smoothing, base=CLASSES, labels=False)}
