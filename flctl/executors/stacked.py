"""Stacked execution: the parameters of K clients as one [K, D] array, moved together.

All products are batched over clients, so a step costs a handful of calls whatever K is. Works for any local optimiser,
gradient clipping and elementwise `adjust`. Clients are sorted by their number of steps, the most first, so that those
still training are always the first ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flctl.executors.layer_chain import ACTIVATIONS, Activation, Chain, Dense
from flctl.executors.loss_heads import Head
from flctl.executors.optimizers import optimizer_for
from flctl.executors.sequential import CLIP_EPS, is_plain, not_finite
from flctl.executors.shards import Shards, Stack
from flctl.executors.updates import Facts, Float64, Updates, Vectors
from flctl.types import Failure, IntArray, LocalWork, Trained
from flctl.wire.buffers import HEAP, Allocator

__all__ = ["Adjusts", "ChainGradient", "Gradient", "StackedUpdates", "facts_of", "train_stacked"]

Adjusts = Callable[[Tensor], Callable[[Tensor, Tensor], Tensor]]
"""`adjusts(clients [K]) -> adjust`: the strategy's `adjust` for clients in this order; `adjust(grad, params)` may be
called with the first a < K of them, [a, D]."""

Gradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""`gradient(params [a, D], x [a, B, ...], y [a, B], share [a, B], out [a, D]) -> losses [a, B]`: writes each client's
gradient of sum_b share_b * loss_b into `out`."""


def train_stacked(
    params: Tensor, shards: Shards, local: LocalWork, gradient: Gradient, adjusts: Adjusts | None
) -> StackedUpdates:
    """Trains K clients from `params`, [D] or a row [K, D] for each. A client whose loss or change is not finite is
    listed in `failures`."""
    stack = shards.stack(local)
    arranged = stack.arrangement
    start = params if params.dim() == 1 else params[torch.from_numpy(arranged.clients)]
    values = start.expand(len(arranged.clients), -1).clone()
    descend = getattr(gradient, "descend", None)
    if descend is not None and is_plain(local, adjusts):
        losses = _steps(stack, lambda rows, x, y, share: descend(values[:rows], x, y, share, local.lr))
    else:
        losses = _steps(
            stack, _moving(values, local, gradient, adjusts and adjusts(torch.from_numpy(arranged.clients)))
        )
    delta = values.sub_(start)
    return StackedUpdates(delta, facts_of(stack, losses, torch.isfinite(delta.sum(1)), shards, local), arranged.clients)


def _steps(stack: Stack, step: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Makes the steps. Returns each client's [K] sum of the losses of its rows, each at the model before its step."""
    width = stack.arrangement.width
    total = torch.zeros(len(stack.arrangement.clients), dtype=torch.float64)
    for step_index, rows in enumerate(stack.arrangement.active):
        here = slice(step_index * width, (step_index + 1) * width)
        share = stack.share[:rows, here]
        losses = stack.weigh(step(rows, stack.x[:rows, here], stack.y[:rows, here], share), here)
        total[:rows] += losses.masked_fill_(share == 0, 0).sum(1, dtype=torch.float64)
    return total


def _descending(
    values: Tensor, local: LocalWork, gradient: ChainGradient
) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """Returns one step of plain gradient descent."""
    return lambda rows, x, y, share: gradient.descend(values[:rows], x, y, share, local.lr)


def _moving(
    values: Tensor, local: LocalWork, gradient: Gradient, adjust: Callable[[Tensor, Tensor], Tensor] | None
) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """Returns one step of any optimiser."""
    optimizer, block = optimizer_for(local), torch.empty_like(values)

    def step(rows: int, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        here, grad = values[:rows], block[:rows]
        losses = gradient(here, x, y, share, grad)
        if adjust is not None:
            grad = adjust(grad, here)
        if local.clip_norm is not None:
            norms = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
            grad.mul_((local.clip_norm / (norms + CLIP_EPS)).clamp_(max=1.0))
        optimizer.step(here, grad)
        return losses

    return step


class ChainGradient:
    """The gradient of a dense chain, each layer's products batched over clients."""

    def __init__(self, chain: Chain, head: Head) -> None:
        self._layers = chain.links
        self._head = head

    def __call__(self, params: Tensor, x: Tensor, y: Tensor, share: Tensor, out: Tensor) -> Tensor:
        def write(layer: Dense, d: Tensor, h: Tensor) -> None:
            _weight(layer, out).baddbmm_(d.mT, h, beta=0)
            if layer.bias is not None:
                torch.sum(d, 1, out=out[:, layer.bias])

        return self._pass(params, x, y, share, write)

    def descend(self, params: Tensor, x: Tensor, y: Tensor, share: Tensor, lr: float) -> Tensor:
        """Makes a step of plain gradient descent in place; the product that computes the gradient also applies the
        update."""

        def move(layer: Dense, d: Tensor, h: Tensor) -> None:
            _weight(layer, params).baddbmm_(d.mT, h, alpha=-lr)
            if layer.bias is not None:
                params[:, layer.bias].sub_(d.sum(1), alpha=lr)

        return self._pass(params, x, y, share, move)

    def _pass(
        self, params: Tensor, x: Tensor, y: Tensor, share: Tensor, use: Callable[[Dense, Tensor, Tensor], None]
    ) -> Tensor:
        """Runs forward, then backward; `use(layer, d, h)` is called for a layer once its weight is no longer read."""
        h = x.reshape(*x.shape[:2], -1)
        seen: list[tuple[Tensor, Tensor]] = []
        for layer in self._layers:
            before, h = h, _forward(layer, params, h)
            seen.append((before, h))
        losses, d = self._head(h, y)
        d = d * share.unsqueeze(2)
        for layer_index in range(len(seen) - 1, -1, -1):
            layer, (before, after) = self._layers[layer_index], seen[layer_index]
            if isinstance(layer, Activation):
                d = ACTIVATIONS[layer.name].backward(d, before, after)
                continue
            above, d = d, torch.bmm(d, _weight(layer, params)) if layer_index else d
            use(layer, above, before)
        return losses


def _forward(layer: Dense | Activation, params: Tensor, h: Tensor) -> Tensor:
    if isinstance(layer, Activation):
        return ACTIVATIONS[layer.name].forward(h)
    weight = _weight(layer, params).mT
    return torch.bmm(h, weight) if layer.bias is None else torch.baddbmm(params[:, layer.bias].unsqueeze(1), h, weight)


def _weight(layer: Dense, params: Tensor) -> Tensor:
    return params[:, layer.weight].view(-1, layer.outputs, layer.inputs)


def facts_of(stack: Stack, losses: Tensor, finite: Tensor, shards: Shards, local: LocalWork) -> Facts:
    """Returns the facts in the order the clients were asked, from those in the arrangement's."""
    arranged, total = stack.arrangement, losses.numpy()
    bad = np.flatnonzero(~(np.isfinite(total) & finite.numpy()))
    failures = {}
    for position in bad.tolist():
        what = "the model is" if np.isfinite(total[position]) else "the training loss is"
        error = not_finite(f"{what} not finite", int(arranged.steps[position]), local)
        failures[int(arranged.clients[position])] = Failure("non-finite", error.message)
    back = np.argsort(arranged.clients)
    mean = np.where(np.isfinite(total), total, 0) / np.maximum(arranged.counts.sum(axis=1), 1)
    steps = arranged.steps[back]
    return Facts(mean[back], np.where(steps > 0, shards.sizes, 0), steps, failures)


class StackedUpdates(Updates):
    """Changes as one block [K, D], in the arrangement's order."""

    def __init__(self, delta: Tensor, facts: Facts, clients: IntArray) -> None:
        self.facts = facts
        self._delta, self._clients = delta, clients
        self._back = np.argsort(clients)
        if facts.failures:
            delta[torch.from_numpy(self._back[sorted(facts.failures)])] = 0

    def norms(self) -> Float64:
        norms: Float64 = torch.linalg.vector_norm(self._delta, dim=1, dtype=torch.float64).numpy()
        return norms[self._back]

    def sum(self, factors: Float64) -> Vectors:
        ordered = torch.from_numpy(factors[self._clients]).float()
        return {"params": torch.mv(self._delta.mT, ordered).numpy()}

    def block(self, allocator: Allocator = HEAP) -> tuple[IntArray, Vectors]:
        failed = np.isin(self._clients, list(self.facts.failures))
        if not failed.any():
            return self._clients, {"params": self._delta.numpy()}
        return self._clients[~failed], {"params": self._delta.numpy()[~failed]}

    def results(self) -> list[Trained | None]:
        rows, facts = self._delta.numpy(), self.facts
        return [
            None
            if position in facts.failures
            else Trained({"params": rows[row]}, float(facts.loss[position]), int(facts.examples[position]), int(steps))
            for position, (row, steps) in enumerate(zip(self._back.tolist(), facts.steps, strict=True))
        ]
