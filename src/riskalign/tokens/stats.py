"""The statistics that every loss needs of one response token."""

from typing import NamedTuple

from torch import Tensor

#: Risk measures that `rows.c` and the Triton kernels know, under their numbers there.
MEASURES = {"mean": 0, "cvar": 1, "erm": 2}


class TokenStats(NamedTuple):
    """Policy against reference at each of N response tokens; each field is [N], in nats.

    `logp_policy` and `logp_ref` are the label's log probabilities, `kl` is
    `KL(reference || policy)`, `risk` the risk of `log reference - log policy` under the
    reference, `entropy` the policy's. Only `logp_policy` and `risk` carry gradients.
    """

    logp_policy: Tensor
    logp_ref: Tensor
    kl: Tensor
    risk: Tensor
    entropy: Tensor
