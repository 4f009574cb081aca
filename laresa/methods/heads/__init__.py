"""Heads: classifiers on the features of a frozen backbone, many of them trained as one.

    features x -> latent z -> logits      (head=latent: LARESA's, all of its terms)
    features x -> logits                  (head=linear: the linear probe)

A group's heads share features, batch size and shapes; each has its own learning rate, weight decay, fields of terms,
weighting, seed, order of samples, early stopping and history. Heads of equal terms are one `Stack`. A head that ends
leaves its stack, and the next of the group takes its place. Alone is a stack of one through the same code: on a CPU
with equal threads the numbers are equal to the bit, whoever shares the stack.
"""

from __future__ import annotations

from laresa.methods.heads.group import Heads

METHODS = {"heads": Heads}

__all__ = ["METHODS", "Heads"]
