"""DeViSE: the own class's text is nearer than every other, by a margin.

Source: Frome et al., NeurIPS 2013, https://papers.nips.cc/paper/2013/hash/7cce53cf90577442771720a370c3c723, Eq. 1.
Shapes: N samples, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import relu

from laresa.fields import Doc, Range

if TYPE_CHECKING:
    from laresa.batch import Batch


def devise_loss(scores_NC: Tensor, own_N: Tensor, target_NC: Tensor, *, gap: float) -> Tensor:
    """sum_j (1 - t_j) max(0, gap - cos(z, e_y) + cos(z, e_j)), per sample (N): over all other texts. DeViSE Eq. 1.

    scores_NC: cos(z, e_j); own_N: cos(z, e_y); target_NC: t, one-hot unless images were mixed.
    """
    return ((1 - target_NC) * relu(gap - own_N[:, None] + scores_NC)).sum(-1)


def devise(
    batch: Batch,
    *,
    gap: Annotated[float, Ge(0), Range(0.05, 0.8), Doc("how much nearer the own text must be than any other")] = 0.1,
) -> Tensor:
    """`devise_loss`, per sample (N). DeViSE Eq. 1, with cosines."""
    return devise_loss(batch.scores("fine"), batch.cosines("fine"), batch.target_NC, gap=gap)


TERMS = {"devise": devise}
