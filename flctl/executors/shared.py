"""Shared execution: clients train without their models being built.

Every client starts from the same W0, and after t steps of gradient descent its linear layer is

    W_t = alpha_t W0 - lr * sum_{j < t} beta_{t, j} D_j^T H_j,

with H_j [B, in] the inputs of step j, D_j [B, out] the gradients at its outputs, and coefficients alpha, beta that
depend on momentum, weight decay and pull alone. So a product with any client's weights is one product with W0, shared
by all clients of the chunk, plus small products among the client's own rows; and the weighted sum of all updates is one
product per layer. This pays off while a client has fewer rows than the layer is wide. Other layers have weights of
their own (as in `stacked`), and so have all biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flctl.executors.layer_chain import ACTIVATIONS, Activation, Chain, Dense
from flctl.executors.loss_heads import Head
from flctl.executors.optimizers import Optimizer, optimizer_for
from flctl.executors.sequential import CLIP_EPS
from flctl.executors.sgd_recurrence import recurrence
from flctl.executors.shards import Shards, Stack
from flctl.executors.stacked import StackedUpdates, facts_of
from flctl.executors.updates import Facts, Float64, Updates, Vectors
from flctl.types import IntArray, LocalWork, Trained
from flctl.wire.buffers import HEAP, Allocator

__all__ = ["LowRank", "Own", "Rule", "SharedUpdates", "train_shared"]

_ALL = slice(None)
_CANCELS = 45.0
"""Largest ratio of the length of the rows' contributions to that of the change. If more cancels, rounding in float32
could exceed a thousandth of the norm."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Update rule of the clients: SGD, with `pull` times (w - w0) added to each gradient. `local.clip_norm` excludes a
    pull."""

    local: LocalWork
    pull: float = 0.0

    @property
    def plain(self) -> bool:
        """True if a step is -lr times the gradient, and nothing else."""
        return not (self.local.momentum or self.local.weight_decay or self.pull)


class LowRank:
    """A linear layer of K clients as W0 plus the rows that changed it; see the module's formula.

    `inputs` [K, T, in] are the layer's inputs if they are known beforehand (the first layer's): products with them are
    then computed once for all steps.
    """

    def __init__(self, weight: Tensor, stack: Stack, rule: Rule, inputs: Tensor | None) -> None:
        self.weight, self._stack, self._lr = weight, stack, rule.local.lr
        clients, rows = stack.y.shape[:2]
        self._width = stack.arrangement.width
        self._known = inputs is not None
        self._h = inputs if inputs is not None else torch.zeros(clients, rows, weight.shape[1])
        self._d = torch.zeros(clients, rows, weight.shape[0])
        self.alpha, self.beta = recurrence(rule.local, len(stack.arrangement.active), rule.pull)
        self._plain = rule.plain
        if inputs is not None:
            self._first = (inputs.flatten(0, 1) @ weight.T).view(clients, rows, weight.shape[0])
            self._gram = torch.bmm(inputs, inputs.mT) if len(stack.arrangement.active) > 1 else None

    def forward(self, step: int, active: int, h: Tensor) -> Tensor:
        """Returns the outputs [a, B, out] of the active clients for the inputs h [a, B, in]."""
        here, past = self._here(step), slice(0, step * self._width)
        if self._known:
            start = self._first[:active, here]
        else:
            self._h[:active, here] = h
            start = (h.flatten(0, 1) @ self.weight.T).view(*h.shape[:2], self.weight.shape[0])
        if step == 0:
            return start
        if self._known and self._gram is not None:
            gram = self._gram[:active, here, past]
        else:
            gram = torch.bmm(h, self._h[:active, past].mT)
        return self._corrected(step, start, gram, self._d[:active, past])

    def backward(self, step: int, active: int, d: Tensor) -> Tensor:
        """Returns the gradient at the inputs [a, B, in] from that at the outputs d [a, B, out]."""
        start = (d.flatten(0, 1) @ self.weight).view(*d.shape[:2], self.weight.shape[1])
        if step == 0:
            return start
        past = slice(0, step * self._width)
        # d W_t = alpha_t d W0 - lr sum_j beta_{t,j} (d D_j^T) H_j: the bracket is [B, rows], so no [out, in] matrix is
        # built.
        return self._corrected(step, start, torch.bmm(d, self._d[:active, past].mT), self._h[:active, past])

    def keep(self, step: int, active: int, d: Tensor) -> None:
        """Makes the step: records d [a, B, out], whose outer products with the inputs move the weights."""
        self._d[:active, self._here(step)] = d

    def square(self, step: int, active: int, d: Tensor) -> Tensor:
        """Returns the squared norm [a] of this step's weight gradient: sum_{i, j} <d_i, d_j> <h_i, h_j>."""
        h = self._h[:active, self._here(step)]
        return (torch.bmm(d, d.mT) * torch.bmm(h, h.mT)).sum((1, 2))

    def settle(self) -> Tensor:
        """Ends training: returns for each client [K] if it is finite, and multiplies each row of `_d` by its
        coefficient at the client's last step."""
        steps = torch.from_numpy(self._stack.arrangement.steps)
        self._shrunk = self.alpha[steps] - 1
        if not self._plain:
            self._d *= self.beta[steps].repeat_interleave(self._width, 1).unsqueeze(2)
        return torch.isfinite(self._d.sum((1, 2)))

    def forget(self, gone: Tensor) -> None:
        """Sets the changes of these clients [K] to zero."""
        self._d[gone] = 0
        # Both factors: a zero in D times an infinite H would still be NaN in the sum over all clients.
        self._h = self._h.masked_fill(gone.view(-1, 1, 1), 0)
        self._shrunk = self._shrunk.masked_fill(gone, 0)

    def squares(self) -> Tensor:
        """Returns the squared norm [K] of each client's change."""
        # |sum_i d_i h_i^T|^2 = sum_{i,j} <d_i, d_j> <h_i, h_j>: T^2 products of rows in place of an [out, in] matrix
        # per client.
        total = (torch.bmm(self._d, self._d.mT) * torch.bmm(self._h, self._h.mT)).sum((1, 2), dtype=torch.float64)
        total *= self._lr**2
        if not self._plain:
            crossed = (self._d * (self._h @ self.weight.T)).sum((1, 2), dtype=torch.float64)
            total += self._shrunk**2 * self.weight.square().sum().double() - 2 * self._lr * self._shrunk * crossed
        # Cancellation may leave a small negative number. `_cancelling` finds the clients in which it matters.
        return total.clamp_(min=0)

    def reaches(self) -> Tensor:
        """Returns an upper bound [K] on the length of each client's change, reached if nothing in it cancels. Rounding
        errors are relative to this bound, not to the change that is left."""
        moves = torch.linalg.vector_norm(self._d, dim=2) * torch.linalg.vector_norm(self._h, dim=2)
        start = torch.linalg.vector_norm(self.weight, dtype=torch.float64)
        reaches: Tensor = moves.sum(1, dtype=torch.float64).mul_(self._lr).add_(self._shrunk.abs() * start)
        return reaches

    def sum(self, factors: Tensor) -> Tensor:
        """Returns sum_k factors[k] * change_k, [out, in]: one product over all rows of all clients."""
        scaled = (self._d * factors.view(-1, 1, 1)).flatten(0, 1)
        total = torch.mm(scaled.T, self._h.flatten(0, 1)).mul_(-self._lr)
        return total if self._plain else total.add_(self.weight, alpha=float(factors @ self._shrunk))

    def write_changes(self, out: Tensor, positions: slice = _ALL) -> None:
        """Writes the changes of the clients at `positions` into `out` [K, out, in]."""
        out.baddbmm_(self._d[positions].mT, self._h[positions], beta=0, alpha=-self._lr)
        if not self._plain:
            out.add_(self.weight * self._shrunk[positions].view(-1, 1, 1))

    def _here(self, step: int) -> slice:
        return slice(step * self._width, (step + 1) * self._width)

    def _corrected(self, step: int, start: Tensor, gram: Tensor, rows: Tensor) -> Tensor:
        if self._plain:
            return torch.baddbmm(start, gram, rows, alpha=-self._lr)
        gram = gram * self.beta[step, :step].repeat_interleave(self._width)
        return torch.baddbmm(start, gram, rows, beta=float(self.alpha[step]), alpha=-self._lr)


class Own:
    """Values [K, ...] of which each client has its own, moved by its own optimiser."""

    def __init__(self, start: Tensor, clients: int, rule: Rule) -> None:
        self._start = start
        self.values = start.expand(clients, *start.shape).clone()
        self._lr, self._pull = rule.local.lr, rule.pull
        self._optimizer: Optimizer | None = None if rule.plain else optimizer_for(rule.local)

    def move(self, active: int, grad: Tensor) -> None:
        """Makes one step along grad [a, ...]."""
        values = self.values[:active]
        if self._optimizer is None:
            values.sub_(grad, alpha=self._lr)
        else:
            self._optimizer.step(values, grad.add(values - self._start, alpha=self._pull) if self._pull else grad)

    def settle(self) -> Tensor:
        """As `LowRank.settle`; afterwards `values` are the changes."""
        return torch.isfinite(self.values.sub_(self._start).view(len(self.values), -1).sum(1))

    def forget(self, gone: Tensor) -> None:
        """As `LowRank.forget`."""
        self.values[gone] = 0

    def squares(self) -> Tensor:
        return self.values.view(len(self.values), -1).square().sum(1, dtype=torch.float64)

    def sum(self, factors: Tensor) -> Tensor:
        return torch.mv(self.values.view(len(self.values), -1).T, factors)


class OwnWeight(Own):
    """The weight of a linear layer of which each client has its own; the alternative to `LowRank`.

    Before the first step all clients have the initial weight, so its products are computed once for all of them.
    """

    def forward(self, step: int, active: int, h: Tensor) -> Tensor:
        self._inputs = h
        if step == 0:
            return (h.flatten(0, 1) @ self._start.T).view(*h.shape[:2], self._start.shape[0])
        return torch.bmm(h, self.values[:active].mT)

    def backward(self, step: int, active: int, d: Tensor) -> Tensor:
        if step == 0:
            return (d.flatten(0, 1) @ self._start).view(*d.shape[:2], self._start.shape[1])
        return torch.bmm(d, self.values[:active])

    def keep(self, step: int, active: int, d: Tensor) -> None:
        if self._optimizer is None:
            self.values[:active].baddbmm_(d.mT, self._inputs, alpha=-self._lr)
        else:
            self.move(active, torch.bmm(d.mT, self._inputs))

    def square(self, step: int, active: int, d: Tensor) -> Tensor:
        h = self._inputs
        return (torch.bmm(d, d.mT) * torch.bmm(h, h.mT)).sum((1, 2))

    def write_changes(self, out: Tensor, positions: slice = _ALL) -> None:
        out.copy_(self.values[positions])


class SharedPass:
    """The layers of K clients, and one training step of them."""

    def __init__(
        self, chain: Chain, head: Head, params: Tensor, stack: Stack, rule: Rule, low_rank: frozenset[int]
    ) -> None:
        self._head, self._stack, self._local = head, stack, rule.local
        self.layers = chain.links
        clients = len(stack.arrangement.clients)
        self._x = stack.x.flatten(2) if stack.x.dim() > 2 else stack.x.unsqueeze(2)
        self.weights: dict[int, LowRank | OwnWeight] = {}
        self.biases: dict[int, Own] = {}
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Dense):
                start = params[layer.weight].view(layer.outputs, layer.inputs)
                inputs = self._x if index == 0 else None
                low = index in low_rank
                self.weights[index] = LowRank(start, stack, rule, inputs) if low else OwnWeight(start, clients, rule)
                if layer.bias is not None:
                    self.biases[index] = Own(params[layer.bias], clients, rule)

    def step(self, step: int, active: int) -> Tensor:
        """Makes one step of the first `active` clients: forward, backward, move. Returns the rows' losses [a, B]."""
        width = self._stack.arrangement.width
        here = slice(step * width, (step + 1) * width)
        h, seen = self._x[:active, here], []
        for index in range(len(self.layers)):
            before, h = h, self._forward(index, step, active, h)
            seen.append((before, h))
        losses, d = self._head(h, self._stack.y[:active, here])
        share = self._stack.share[:active, here]
        above = self._backward(step, active, d * share.unsqueeze(2), seen)
        self._move(step, active, above)
        return self._stack.weigh(losses, here).masked_fill_(share == 0, 0)

    def _forward(self, index: int, step: int, active: int, h: Tensor) -> Tensor:
        layer = self.layers[index]
        if isinstance(layer, Activation):
            return ACTIVATIONS[layer.name].forward(h)
        z = self.weights[index].forward(step, active, h)
        bias = self.biases.get(index)
        return z if bias is None else z + bias.values[:active].unsqueeze(1)

    def _backward(self, step: int, active: int, d: Tensor, seen: list[tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
        """Returns the gradient at each linear layer's outputs."""
        above: dict[int, Tensor] = {}
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            if isinstance(layer, Activation):
                d = ACTIVATIONS[layer.name].backward(d, *seen[index])
                continue
            above[index] = d
            if index:
                d = self.weights[index].backward(step, active, d)
        return above

    def _move(self, step: int, active: int, above: dict[int, Tensor]) -> None:
        if self._local.clip_norm is not None:
            square = sum(self._square(index, step, active, d) for index, d in above.items())
            norm = torch.sqrt(torch.as_tensor(square))
            factor = (self._local.clip_norm / (norm + CLIP_EPS)).clamp_(max=1.0).view(-1, 1, 1)
            above = {index: d * factor for index, d in above.items()}
        for index, d in above.items():
            self.weights[index].keep(step, active, d)
            if index in self.biases:
                self.biases[index].move(active, d.sum(1))

    def _square(self, index: int, step: int, active: int, d: Tensor) -> Tensor:
        weight = self.weights[index].square(step, active, d)
        return weight + d.sum(1).square().sum(1) if index in self.biases else weight


def train_shared(
    chain: Chain, head: Head, params: Tensor, shards: Shards, rule: Rule, low_rank: frozenset[int]
) -> SharedUpdates:
    """Trains K clients from `params` [D] by `rule`; the layers at the indices `low_rank` share their initial weight.

    Indices are those in `chain.links`. A client whose loss or change is not finite is listed in `failures`.
    """
    stack = shards.stack(rule.local)
    work = SharedPass(chain, head, params, stack, rule, low_rank)
    total = torch.zeros(len(stack.arrangement.clients), dtype=torch.float64)
    for step, active in enumerate(stack.arrangement.active):
        total[:active] += work.step(step, active).sum(1, dtype=torch.float64)
    parts = [*work.weights.values(), *work.biases.values()]
    finite = torch.isfinite(total)
    for part in parts:
        finite = finite & part.settle()
    if not bool(finite.all()):
        for part in parts:
            part.forget(~finite)
    return SharedUpdates(chain, work, facts_of(stack, total, finite, shards, rule.local), stack.arrangement.clients)


class SharedUpdates(Updates):
    """Changes as the rows that made them, in the arrangement's order."""

    def __init__(self, chain: Chain, work: SharedPass, facts: Facts, clients: IntArray) -> None:
        self.facts = facts
        self._chain, self._work, self._clients = chain, work, clients
        self._back = np.argsort(clients)

    def norms(self) -> Float64:
        total = self._squares.sqrt()
        for position in self._cancelling:
            total[position] = torch.linalg.vector_norm(self._built(position), dtype=torch.float64)
        return total.numpy()[self._back]

    def sum(self, factors: Float64) -> Vectors:
        ordered = torch.from_numpy(factors[self._clients]).float()
        built, ordered = ordered[self._cancelling], ordered.index_fill(0, torch.tensor(self._cancelling).long(), 0.0)
        total = torch.zeros(self._chain.parameters)
        for index, layer in self._dense():
            total[layer.weight] = self._work.weights[index].sum(ordered).view(-1)
            if layer.bias is not None:
                total[layer.bias] = self._work.biases[index].sum(ordered)
        for position, factor in zip(self._cancelling, built.tolist(), strict=True):
            total.add_(self._built(position), alpha=factor)
        return {"params": total.numpy()}

    @cached_property
    def _squares(self) -> Tensor:
        """The squared norm [K] of each client's change, from products of the rows that made it."""
        parts = [*self._work.weights.values(), *self._work.biases.values()]
        return torch.stack([part.squares() for part in parts]).sum(0)

    @cached_property
    def _cancelling(self) -> list[int]:
        """The positions of clients most of whose rows cancel. Their change is built, and its norm and the sum are
        computed from it: a client may be clipped by its norm, so the norm must be right whatever the rows are."""
        low = [weight for weight in self._work.weights.values() if isinstance(weight, LowRank)]
        if not low:
            return []
        together = torch.stack([weight.reaches().square() for weight in low]).sum(0)
        # The squared norm's relative error is about c eps (together / change)^2, eps = 2^-24 and c the roundings of a
        # product: c <= 16 keeps the norm within 1e-3 at a ratio of 45.
        positions: list[int] = torch.nonzero(together > _CANCELS**2 * self._squares).view(-1).tolist()
        return positions

    def results(self) -> list[Trained | None]:
        return self.materialised().results()

    def block(self, allocator: Allocator = HEAP) -> tuple[IntArray, Vectors]:
        return self.materialised(allocator).block()

    def materialised(self, allocator: Allocator = HEAP) -> StackedUpdates:
        """Returns the same updates as one block [K, D], allocated by `allocator`."""
        block = torch.from_numpy(allocator.empty((len(self._clients), self._chain.parameters), np.float32))
        self._fill(block, _ALL)
        for position in self._cancelling:  # the bits whose norm was measured: clipping must bound what is sent
            block[position] = self._built(position)
        return StackedUpdates(block, self.facts, self._clients)

    def _built(self, position: int) -> Tensor:
        """Returns the change [D] of the client at `position`."""
        block = torch.empty(1, self._chain.parameters)
        self._fill(block, slice(position, position + 1))
        return block[0]

    def _fill(self, block: Tensor, positions: slice) -> None:
        for index, layer in self._dense():
            self._work.weights[index].write_changes(
                block[:, layer.weight].view(-1, layer.outputs, layer.inputs), positions
            )
            if layer.bias is not None:
                block[:, layer.bias] = self._work.biases[index].values[positions]

    def _dense(self) -> list[tuple[int, Dense]]:
        return [(index, layer) for index, layer in enumerate(self._work.layers) if isinstance(layer, Dense)]
