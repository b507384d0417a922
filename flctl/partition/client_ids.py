"""The ids of a partition's clients, in client order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from flctl.types import IntArray

__all__ = ["ClientIds"]


class ClientIds(Sequence[str]):
    """The ids in client order; made into strings one by one as they are asked for."""

    def __init__(self, array: npt.NDArray[np.str_]) -> None:
        self._array = array
        self._order: IntArray | None = None

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[str]: ...
    def __getitem__(self, item: int | slice) -> str | Sequence[str]:
        found = self._array[item]
        return found.tolist() if isinstance(item, slice) else str(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._array.tolist())

    def __contains__(self, client_id: object) -> bool:
        return isinstance(client_id, str) and self.find(client_id) is not None

    def take(self, indices: IntArray) -> npt.NDArray[np.str_]:
        """The ids [K] of the clients with these numbers [K], as an array."""
        return self._array[indices]

    def find(self, client_id: str) -> int | None:
        """The client's number, or None. Ids "0".."K-1" need no search; others are sorted once."""
        index = int(client_id) if client_id.isdecimal() and len(client_id) < 19 else len(self)
        if index < len(self) and self._array[index] == client_id:
            return index
        if self._order is None:
            self._order = np.argsort(self._array, kind="stable")
        position = int(np.searchsorted(self._array, client_id, sorter=self._order))
        if position < len(self) and self._array[self._order[position]] == client_id:
            return int(self._order[position])
        return None
