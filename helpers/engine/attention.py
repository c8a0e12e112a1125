"""Attention that reads a prefix shared by all rows once, instead of a copy of it for each row.

A row attends to two kinds of tokens: the prefix, which is the target prompt up to its placeholder and the same for
every row; and its suffix, which is the placeholder and whatever follows. The scores of both go through one softmax, so
the result is the usual attention. But the prefix's keys and values are one matrix for all rows, and the rows' suffixes
are written into memory that is allocated once.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

NAME = "shared_prefix"
HARMLESS = {"dropout", "sliding_window", "position_ids", "use_cache", "output_router_logits"}  # don't change a result


class SharedPrefixCache(Cache):
    """Keys and values of one prefix, and room for the suffixes of many rows.

    Args:
        prefix: what the model kept of the prefix, for one row.
        rows, room: how many rows, and how many tokens each of them will add.
        dtype: of the suffixes' keys and values; float32 saves converting them, the model's dtype saves memory.

    Attributes:
        suffix_tokens: how many tokens each row has added; whoever runs a pass adds its tokens when it has ended.
        current: the layer of this cache that belongs to the running block.
    """

    def __init__(self, prefix: DynamicCache, rows: int, room: int, dtype: torch.dtype):
        super().__init__(
            layers=[_SharedPrefixLayer(layer.keys, layer.values, rows, room, dtype) for layer in prefix.layers]
        )
        for layer, following in zip(self.layers, self.layers[1:] + self.layers[:1], strict=True):
            layer.following = following
        self.made_for = (rows, dtype)
        self.forget_rows()

    def forget_rows(self) -> None:
        """Make room for the next rows, as many as it was made for; keep the prefix."""
        self.suffix_tokens, self.current = 0, self.layers[-1]
        for layer in self.layers:
            layer.make_room(self.made_for[0])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep some of the rows: (kept,) int64, which ones; the others' room is free until `forget_rows`."""
        for layer in self.layers:
            layer.keep(beam_idx, self.suffix_tokens)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of new tokens, (rows, heads, tokens, head size), for `attend`."""
        # Compiled code follows the link: code that looks up a number would be compiled again for each block.
        self.current = self.current.following if torch.compiler.is_compiling() else self.layers[layer_idx]
        new = slice(self.suffix_tokens, self.suffix_tokens + key_states.shape[2])
        self.current.keys[new] = key_states.permute(2, 1, 0, 3).to(self.current.keys.dtype)
        self.current.values[new] = value_states.permute(2, 1, 0, 3).to(self.current.values.dtype)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.layers[layer_idx].get_seq_length() + self.suffix_tokens


class _SharedPrefixLayer(CacheLayerMixin):
    """One block's keys and values. Scores and their softmax are float32 in any dtype, so that they lose nothing.

    Attributes:
        prefix_keys, prefix_values: (heads, prefix tokens, head size) float32; heads are those of keys and values.
        keys, values: (room, heads, rows, head size), of which the first `suffix_tokens` are filled.
        following: the next block's layer; after the last block's comes the first's.
    """

    is_initialized = True

    def __init__(self, keys: Tensor, values: Tensor, rows: int, room: int, dtype: torch.dtype):
        self.prefix_keys, self.prefix_values = keys[0].float(), values[0].float()
        self._room = [
            part.new_empty(room * len(part[0]) * rows * part.shape[-1], dtype=dtype) for part in (keys, values)
        ]
        self._shapes = [(room, len(part[0]), -1, part.shape[-1]) for part in (keys, values)]
        self.make_room(rows)

    def make_room(self, rows: int) -> None:
        """Lay out the room for so many rows, at most as many as it was made for."""
        self.keys, self.values = (
            given[: room * heads * rows * size].view(room, heads, rows, size)
            for given, (room, heads, _, size) in zip(self._room, self._shapes, strict=True)
        )

    def keep(self, rows: Tensor, tokens: int) -> None:
        """Keep some of the rows, with so many tokens each: they move together, so that products read them in one line."""
        kept = [part[:tokens, :, rows] for part in (self.keys, self.values)]
        self.make_room(len(rows))
        self.keys[:tokens], self.values[:tokens] = kept

    def get_seq_length(self) -> int:
        return self.prefix_keys.shape[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.prefix_keys.shape[1] + len(self.keys)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the prefix has given all shapes."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("SharedPrefixCache.update writes into this layer")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prefix: SharedPrefixCache | None = None,
    **settings,
) -> tuple[Tensor, None]:
    """Let new tokens attend, causally, to the shared prefix and to their row's suffix (transformers' interface).

    Args:
        query: (rows, query heads, new tokens, head size).
        shared_prefix: holds every key and value that the query may see, those of the new tokens included.
        settings: what else a family's code passes; refused unless it is known not to matter here.

    Returns:
        (rows, new tokens, query heads, head size), and None for the weights.

    Raises:
        NotImplementedError: a setting that could change the result.
    """
    if unknown := {name for name, setting in settings.items() if setting is not None} - HARMLESS:
        raise NotImplementedError(f"attention with {sorted(unknown)}")
    layer = shared_prefix.current
    heads, prefix, size = layer.prefix_keys.shape
    rows, query_heads, new, _ = query.shape
    suffix = shared_prefix.suffix_tokens + new
    lines = query_heads // heads * new  # queries that share a head's keys
    keys, values = layer.keys[:suffix].float(), layer.values[:suffix].float()

    query = query.float() * (size**-0.5 if scaling is None else scaling)
    query = query.reshape(rows, heads, lines, size).transpose(0, 1)
    to_prefix = torch.bmm(query.reshape(heads, rows * lines, size), layer.prefix_keys.transpose(1, 2))
    to_suffix = _scores_of_suffix(query, keys)
    if new > 1:  # the last new token sees the whole suffix, the token before it all but the last
        later = torch.ones(new, suffix, dtype=torch.bool, device=query.device).triu(suffix - new + 1)
        to_suffix = to_suffix.masked_fill(later.repeat(lines // new, 1), -torch.inf)

    weights = torch.cat([to_prefix.view(heads, rows, lines, prefix), to_suffix], -1).softmax(-1)
    of_prefix = torch.bmm(weights.view(heads, rows * lines, -1)[..., :prefix], layer.prefix_values)
    output = of_prefix.view(heads, rows, lines, -1) + _mix_suffix(weights[..., prefix:], values)
    output = output.transpose(0, 1).to(value.dtype)
    return output.reshape(rows, query_heads, new, -1).transpose(1, 2), None


def _scores_of_suffix(query: Tensor, keys: Tensor) -> Tensor:
    """Multiply each row's queries with its suffix's keys.

    These are many tiny matrix products. They run as such where each operation is a call, and as products and sums
    where the compiler makes a single loop of them.

    Args:
        query: (heads, rows, lines, size).
        keys: (suffix, heads, rows, size).

    Returns:
        (heads, rows, lines, suffix).
    """
    if torch.compiler.is_compiling():
        return (query * keys.unsqueeze(3)).sum(-1).permute(1, 2, 3, 0)
    products = torch.bmm(query.reshape(-1, *query.shape[2:]), keys.flatten(1, 2).permute(1, 2, 0))
    return products.view(*query.shape[:3], len(keys))


def _mix_suffix(weights: Tensor, values: Tensor) -> Tensor:
    """Sum each row's suffix's values, weighted.

    Args:
        weights: (heads, rows, lines, suffix).
        values: (suffix, heads, rows, size).

    Returns:
        (heads, rows, lines, size).
    """
    if torch.compiler.is_compiling():
        return (weights.permute(3, 0, 1, 2).unsqueeze(-1) * values.unsqueeze(3)).sum(0)
    mixed = torch.bmm(weights.flatten(0, 1), values.flatten(1, 2).transpose(0, 1))
    return mixed.view(*weights.shape[:3], -1)


AttentionInterface.register(NAME, attend)


def can_share(model: PreTrainedModel, prefix: DynamicCache, room: int) -> bool:
    """Tell whether the model lets its attention be chosen, and keeps the prefix and `room` tokens in plain layers.

    This is a necessary condition; `PatchedPrompt` tries whether the results agree.
    """
    return bool(prefix.layers and model._supports_attention_backend) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
        and layer.is_initialized
        and layer.get_seq_length() + room <= getattr(layer, "sliding_window", torch.inf)
        for layer in prefix.layers
    )


@contextmanager
def shared_prefix_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend through `attend` inside the `with` block; pass it the cache as `shared_prefix=`."""
    usual = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(usual)
