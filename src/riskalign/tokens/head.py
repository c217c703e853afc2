"""The output head of a language model: from last hidden states to logits."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Head:
    """A linear head, `logits = softcap * tanh(scale * (h @ weight.T + bias) / softcap)`.

    Shapes: `weight` [V, H], `bias` [V] or None. Without `softcap` the tanh is left out.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H], in the matrix product's precision."""
        logits = hidden @ self.weight.T
        if self.bias is not None:
            logits = logits + self.bias
        return self.finish(logits)

    def finish(self, logits: Tensor) -> Tensor:
        """Logits [..., V] of the linear layer's own output [..., V]."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * (logits / self.softcap).tanh()
        return logits
