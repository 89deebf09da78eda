"""A key-value cache that grows in place: a new token is written beside the old ones, not copied with them.

transformers' dynamic cache concatenates all earlier keys and values for every token, which is half of the
time of generating with small models and doubles the memory traffic of large ones. The values are the same.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE = 128
"""Slots that are allocated beyond those needed."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values `[B, heads, slots, D]` as views of longer buffers; without gradients only."""

    _rooms: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new keys and values; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        keys, values = self._rooms_for(key_states, value_states, start, stop)
        keys[:, :, start:stop], values[:, :, start:stop] = key_states, value_states
        self.keys, self.values = keys[:, :, :stop], values[:, :, :stop]
        return self.keys, self.values

    def _rooms_for(
        self, new_keys: Tensor, new_values: Tensor, start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """The buffers; new ones where they are full or rows were copied or dropped in between."""
        rooms = self._rooms
        if rooms is None or rooms[0].shape[2] < stop or self.keys.data_ptr() != rooms[0].data_ptr():
            batch, heads = new_keys.shape[:2]
            rooms = (
                new_keys.new_empty(batch, heads, stop + SPARE, new_keys.shape[-1]),
                new_values.new_empty(batch, heads, stop + SPARE, new_values.shape[-1]),
            )
            if start:
                rooms[0][:, :, :start], rooms[1][:, :, :start] = self.keys, self.values
            self._rooms = rooms
        return rooms


def growing_cache(text_config: Any) -> DynamicCache:
    """An empty cache for a language model of that configuration; layers with a window stay as they are."""
    cache = DynamicCache(config=text_config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
