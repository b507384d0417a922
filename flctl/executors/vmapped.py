"""Stacked gradients of any module, through `torch.func.vmap`."""

from __future__ import annotations

import torch
from torch import Tensor

from flctl.executors.loss_heads import Head
from flctl.models.flat_model import FlatModel

__all__ = ["VmapGradient"]


class VmapGradient:
    """A `stacked.Gradient` of a module without buffers; torch's vmap must be able to run it."""

    def __init__(self, model: FlatModel, head: Head) -> None:
        self._module, self._head = model.module, head
        trained = {id(parameter) for parameter in model.parameters}
        named = [(name, p) for name, p in model.module.named_parameters() if id(p) in trained]
        self._names = [name for name, _ in named]
        self._shapes = [p.shape for _, p in named]
        self._sizes = [p.numel() for _, p in named]
        self._losses = torch.func.vmap(self._loss, randomness="different")

    def __call__(self, params: Tensor, x: Tensor, y: Tensor, share: Tensor, out: Tensor) -> Tensor:
        self._module.train()
        with torch.enable_grad():
            leaf = params.detach().requires_grad_()
            sums, losses = self._losses(leaf, x, y, share)
            # A client's sum depends on its own parameters alone, so that one ordinary backward pass gives the gradients
            # of all. torch.func.grad would give them too, but imports torch._dynamo, which takes seconds.
            (grads,) = torch.autograd.grad(sums.sum(), leaf)
        out.copy_(grads)
        return losses.detach()

    def _loss(self, flat: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(self._names, torch.split(flat, self._sizes), self._shapes, strict=True)
        named = {name: part.view(shape) for name, part, shape in parts}
        outputs = torch.func.functional_call(self._module, named, (x,))
        # The head works in place, which autograd cannot differentiate. So d = dloss/doutputs is a constant here, and
        # the gradient of <outputs, d> is that of the loss.
        losses, d = self._head(outputs.detach(), y)
        # Outputs of padding may be infinite; its share is 0, and 0 * infinity would be NaN.
        d = torch.where(share.unsqueeze(-1) > 0, d * share.unsqueeze(-1), 0)
        return (outputs * d.view(outputs.shape)).sum(), losses
