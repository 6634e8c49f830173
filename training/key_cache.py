"""Keys and values of the tokens that a batch has read, in buffers that grow and shrink in place.

transformers' own cache copies all keys at each token, and again when an answer is done. For a small model that is a
third of the time of generation.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SPARE = 48  # tokens that there is room for when a buffer is made


class BufferedLayer(DynamicLayer):
    """Of one layer: `keys` and `values` are the used parts of two buffers, [rows, heads, tokens, channels] each."""

    _buffers: list[Tensor]
    _used: list[Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        new = [key_states, value_states]
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self._fill(new)
            return self._used[0], self._used[1]
        rows, length = self._size()
        longer = length + key_states.shape[2]
        if longer > self._buffers[0].shape[2]:
            self._fill(self._used, longer)
        self._use(rows, longer)
        for used, states in zip(self._used, new, strict=True):
            used[:, :, length:] = states
        return self._used[0], self._used[1]

    def batch_select_indices(self, indices: Tensor) -> None:
        self._fill([used.index_select(0, indices) for used in self._used])

    def keep(self, moved: Sequence[tuple[int, int]], rows: int) -> None:
        """Drops all rows but the first `rows`, after others were `moved`: (from, to)."""
        for used in self._used:
            for source, to in moved:
                used[to] = used[source]
        self._use(rows, self._size()[1])

    def _size(self) -> tuple[int, int]:
        rows, _, length, _ = self._used[0].shape
        return rows, length

    def _fill(self, states: Sequence[Tensor], length: int = 0) -> None:
        """Makes new buffers of these states, with room for `length` tokens and some more."""
        rows, heads, tokens, channels = states[0].shape
        room = max(length, tokens) + SPARE
        self._buffers = [of.new_empty(rows, heads, room, channels) for of in states]
        self._use(rows, tokens)
        for used, of in zip(self._used, states, strict=True):
            used.copy_(of)

    def _use(self, rows: int, length: int) -> None:
        self._used = [buffer[:rows, :, :length] for buffer in self._buffers]
        self.keys, self.values = self._used


class BufferedCache(Cache):
    """A cache for `VisionLanguageModel`, a `BufferedLayer` for each of its layers."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=BufferedLayer)

    @property
    def states(self) -> list[tuple[Any, Any]]:
        """The keys and values of each layer: [rows, heads, tokens, channels]."""
        layers: list[Any] = self.layers
        return [(layer.keys, layer.values) for layer in layers]

    def keep(self, places: Sequence[int]) -> list[int]:
        """Drops all rows but those at these places. Returns the places in the order in which the rows now are: the last
        rows move to where rows were dropped."""
        rows, kept = len(places), {*places}
        last = [place for place in places if place >= rows]
        free = [place for place in range(rows) if place not in kept]
        moved = [*zip(last, free, strict=True)]
        for layer in self.layers:
            layer.keep(moved, rows)  # pyright: ignore[reportAttributeAccessIssue]
        source = {to: place for place, to in moved}
        return [source.get(place, place) for place in range(rows)]
