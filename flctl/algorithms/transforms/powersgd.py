"""PowerSGD: low-rank approximation of weight matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.algorithms.transform import ClientContext, Shapes, SharedContext
from flctl.algorithms.transforms.compressor import ErrorFeedback, Parts, Values, compressible, in_range
from flctl.types import Arrays, Batch, ClientUpdate, FloatArray, Layout

if TYPE_CHECKING:
    from torch import Tensor

_LEFT, _RIGHT, _REST, _BASIS = ".left", ".right", ".rest", "basis."


@dataclass(frozen=True, slots=True)
class Block:
    """A contiguous part of a vector, and the shape of the matrix that it is laid out as, padded with zeros; None if it
    is sent unchanged."""

    start: int
    size: int
    matrix: tuple[int, int] | None


class PowerSGD(ErrorFeedback):
    """Each weight matrix as a product of rank `rank` (Vogels et al. 2019, Algorithms 1 and 2).

    A matrix M [n, m], a tensor's first dimension against all others, is sent as P [n, r] with orthonormal columns and Q
    [m, r] = M^T P, where P spans M Q' and Q' is the client's last Q, random at first: one step of subspace iteration.
    Biases, and matrices that would not become smaller, are sent unchanged. A vector that is not laid out as the model's
    parameters is treated as one matrix, as square as possible.

    The paper adds up P over all workers before Q is computed, in the middle of a step. Here each client computes both,
    because a round has one exchange, and the server multiplies them before it adds up.
    """

    name = "powersgd"

    class Config(ErrorFeedback.Config):
        rank: int = Field(2, ge=1, description="Rank of each matrix's approximation.")
        warm_start: bool = Field(
            True, description="Clients start from the Q of their last round; off: from a random one."
        )

    def __init__(self, config: Any = None, tensors: Sequence[tuple[int, ...]] = ()) -> None:
        super().__init__(config)
        self._tensors = tuple(tensors)

    def shaped(self, shapes: Shapes) -> Self:
        return type(self)(self.config, tuple(shapes.get("params", ())))

    @cached_property
    def _whole(self) -> int:
        return sum(math.prod(tensor) for tensor in self._tensors)

    def blocks(self, length: int) -> list[Block]:
        """Returns the matrices of a vector, and the parts between them."""
        if not self._tensors or length != self._whole:
            rows = math.isqrt(length)
            return [Block(0, length, self._matrix(rows, -(-length // rows)))]
        blocks, start = [], 0
        for tensor in self._tensors:
            size = math.prod(tensor)
            matrix = self._matrix(tensor[0], size // max(tensor[0], 1)) if len(tensor) > 1 else None
            blocks.append(Block(start, size, matrix))
            start += size
        return blocks

    def _matrix(self, rows: int, columns: int) -> tuple[int, int] | None:
        smaller = self.config.rank * (rows + columns) < rows * columns
        return (rows, columns) if smaller and self.config.rank <= min(rows, columns) else None

    def parts(self, length: int) -> Layout:
        blocks, rank = self.blocks(length), self.config.rank
        left, right = (sum(block.matrix[side] for block in blocks if block.matrix) * rank for side in (0, 1))
        rest = sum(block.size for block in blocks if not block.matrix)
        if not left:
            return {"": length}
        return {_LEFT: left, _RIGHT: right, **({_REST: rest} if rest else {})}

    def remembers(self, layout: Layout) -> Layout:
        bases: dict[str, int] = {}
        for name, length in layout.items() if self.config.warm_start else ():
            right = self.parts(length).get(_RIGHT) if compressible(name, length) else None
            bases |= {_BASIS + name: right} if right else {}
        return {**super().remembers(layout), **bases}

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        if "" in self.parts(values.size):
            return {"": values}
        import torch

        basis = ctx.memory.get(_BASIS + name)
        lefts: list[npt.NDArray[Any]] = []
        rights: list[npt.NDArray[Any]] = []
        rest: list[npt.NDArray[Any]] = []
        offset = 0
        for block in self.blocks(values.size):
            part = values[block.start : block.start + block.size]
            if block.matrix is None:
                rest.append(part)
                continue
            count = block.matrix[1] * self.config.rank
            given = None if basis is None else basis[offset : offset + count]
            # A zero Q' spans no subspace, and QR of M Q' = 0 would return arbitrary columns: restart from a random one.
            start = ctx.rng.standard_normal(count) if given is None or not given.any() else given
            left, right = _factors(_laid_out(torch.from_numpy(part), block), torch.from_numpy(np.array(start)))
            lefts.append(left)
            rights.append(right)
            offset += count
        named = {_LEFT: lefts, _RIGHT: rights, **({_REST: rest} if rest else {})}
        return {ending: in_range(np.concatenate(pieces)) for ending, pieces in named.items()}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        if "" in parts:
            return parts[""]
        whole, rest = np.empty(length, np.float32), 0
        for block, left, right in self._factored(length, parts):
            part = whole[block.start : block.start + block.size]
            if block.matrix is None:
                part[:] = parts[_REST][rest : rest + block.size]
                rest += block.size
            else:
                part[:] = in_range(_product(left, right).reshape(-1)[: block.size])
        return whole

    def _factored(self, length: int, parts: Parts) -> Iterator[tuple[Block, npt.NDArray[Any], npt.NDArray[Any]]]:
        rank, offsets = self.config.rank, [0, 0]
        for block in self.blocks(length):
            sizes = [side * rank for side in block.matrix] if block.matrix else [0, 0]
            pieces = [parts[end][at : at + n] for end, at, n in zip((_LEFT, _RIGHT), offsets, sizes, strict=True)]
            offsets = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
            yield block, pieces[0].reshape(-1, rank), pieces[1].reshape(-1, rank)

    def keeps(self, given: ClientUpdate, sent: ClientUpdate, arrived: Arrays, ctx: ClientContext) -> Arrays:
        kept = dict(super().keeps(given, sent, arrived, ctx))
        for key in self.remembers(ctx.shared.layout):
            if key.startswith(_BASIS):
                kept[key] = sent.arrays[key.removeprefix(_BASIS) + _RIGHT]
        return kept


def _laid_out(part: Tensor, block: Block) -> Tensor:
    """Returns a block as its matrix, in float64, where products of float32 values stay finite."""
    import torch

    rows, columns = block.matrix or (1, block.size)
    padded = torch.zeros(rows * columns, dtype=torch.float64)
    padded[: block.size] = part
    return padded.view(rows, columns)


def _factors(matrix: Tensor, start: Tensor) -> Batch:
    """Returns P and Q, flat, of a matrix M [n, m], from Q' [m r]: the same bits on any engine, with one thread of
    torch."""
    import torch

    # Orthonormal P makes P P^T M the best approximation of M in the column space of P.
    left = torch.linalg.qr(matrix @ start.to(torch.float64).view(matrix.shape[1], -1))[0]
    return left.reshape(-1).numpy(), (matrix.T @ left).reshape(-1).numpy()


def _product(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> FloatArray:
    import torch

    wide = [torch.from_numpy(np.array(factor, np.float64)) for factor in (left, right)]
    return (wide[0] @ wide[1].T).numpy()
