"""Attention that reads a prefix shared by all rows once, instead of a copy of it for each row.

A row attends to two kinds of tokens: the target prompt up to its placeholder, the same for every row, and its own,
the placeholder and what came after. The scores of both go through one softmax, so the result is the usual attention;
only the prefix's keys and values are one matrix for all rows, and the rows' own are written into room made once.
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
    """Keys and values of one prefix, and room for the own tokens of many rows.

    Args:
        prefix: what the model kept of the prefix, one row.
        rows, room: how many rows, and how many tokens each of them will add.
        dtype: what the rows' own keys and values are kept in; float32 saves converting them, the model's own memory.

    Attributes:
        own_tokens: how many each row has added; whoever runs a pass counts its tokens when it has ended.
        here: the part of the block that is running.
    """

    def __init__(self, prefix: DynamicCache, rows: int, room: int, dtype: torch.dtype):
        parts = [_SharedPrefixLayer(layer.keys, layer.values, rows, room, dtype) for layer in prefix.layers]
        super().__init__(layers=parts)
        for layer, following in zip(self.layers, self.layers[1:] + self.layers[:1], strict=True):
            layer.following = following
        self.made_for = (rows, dtype)
        self.forget_rows()

    def forget_rows(self) -> None:
        """Make the room free again for the next rows; the prefix stays."""
        self.own_tokens, self.here = 0, self.layers[-1]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of new tokens, (rows, heads, tokens, head size); `attend` reads them from `here`."""
        # Compiled code finds its part by the link: one that looks up a number would be compiled again for each block.
        self.here = self.here.following if torch.compiler.is_compiling() else self.layers[layer_idx]
        new = slice(self.own_tokens, self.own_tokens + key_states.shape[2])
        self.here.keys[new] = key_states.permute(2, 1, 0, 3).to(self.here.keys.dtype)
        self.here.values[new] = value_states.permute(2, 1, 0, 3).to(self.here.values.dtype)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.layers[layer_idx].get_seq_length() + self.own_tokens


class _SharedPrefixLayer(CacheLayerMixin):
    """One block's part. Scores and their softmax are computed in float32 whatever the dtype, so that they lose nothing.

    Attributes:
        prefix_keys, prefix_values: (heads, prefix tokens, head size), heads of keys and values.
        keys, values: (room, heads, rows, head size), of which the first `own_tokens` are filled.
        following: the next block's part; of the last block, the first's.
    """

    is_initialized = True

    def __init__(self, keys: Tensor, values: Tensor, rows: int, room: int, dtype: torch.dtype):
        self.prefix_keys, self.prefix_values = keys[0].float(), values[0].float()
        heads = len(self.prefix_keys)
        self.keys = keys.new_empty(room, heads, rows, keys.shape[-1], dtype=dtype)
        self.values = values.new_empty(room, heads, rows, values.shape[-1], dtype=dtype)

    def get_seq_length(self) -> int:
        return self.prefix_keys.shape[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.prefix_keys.shape[1] + len(self.keys)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do: the prefix told all shapes."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("SharedPrefixCache.update writes here")


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
    """Causal attention of new tokens over the shared prefix and each row's own tokens (transformers' interface).

    Args:
        query: (rows, query heads, new tokens, head size).
        shared_prefix: holds every key and value that the query may see, those of the new tokens included.
        settings: what else a family's code passes; refused unless it is known not to matter here.

    Returns:
        (rows, new tokens, query heads, head size), and None for the weights.
    """
    if unknown := {name for name, setting in settings.items() if setting is not None} - HARMLESS:
        raise NotImplementedError(f"attention with {sorted(unknown)}")
    layer = shared_prefix.here
    heads, prefix, size = layer.prefix_keys.shape
    rows, query_heads, new, _ = query.shape
    own, lines = shared_prefix.own_tokens + new, query_heads // heads * new  # lines: queries that share a head's keys
    keys, values = layer.keys[:own].float(), layer.values[:own].float()

    query = query.float() * (size**-0.5 if scaling is None else scaling)
    query = query.reshape(rows, heads, lines, size).transpose(0, 1)
    to_prefix = torch.bmm(query.reshape(heads, rows * lines, size), layer.prefix_keys.transpose(1, 2))
    to_own = _dot_own(query, keys)
    if new > 1:  # the last new token sees all own tokens, the one before it all but one
        later = torch.ones(new, own, dtype=torch.bool, device=query.device).triu(own - new + 1)
        to_own = to_own.masked_fill(later.repeat(lines // new, 1), -torch.inf)

    weights = torch.cat([to_prefix.view(heads, rows, lines, prefix), to_own], -1).softmax(-1)
    of_prefix = torch.bmm(weights.view(heads, rows * lines, -1)[..., :prefix], layer.prefix_values)
    output = of_prefix.view(heads, rows, lines, -1) + _mix_own(weights[..., prefix:], values)
    output = output.transpose(0, 1).to(value.dtype)
    return output.reshape(rows, query_heads, new, -1).transpose(1, 2), None


def _dot_own(query: Tensor, keys: Tensor) -> Tensor:
    """(heads, rows, lines, own): each row's queries (heads, rows, lines, size) with its own keys (own, heads, rows, size).

    Many tiny matrix products: as such where each operation is a call, as products and sums where the compiler makes
    one loop of them.
    """
    if torch.compiler.is_compiling():
        return (query * keys.unsqueeze(3)).sum(-1).permute(1, 2, 3, 0)
    products = torch.bmm(query.reshape(-1, *query.shape[2:]), keys.flatten(1, 2).permute(1, 2, 0))
    return products.view(*query.shape[:3], len(keys))


def _mix_own(weights: Tensor, values: Tensor) -> Tensor:
    """(heads, rows, lines, size): each row's own values (own, heads, rows, size), weighted (heads, rows, lines, own)."""
    if torch.compiler.is_compiling():
        return (weights.permute(3, 0, 1, 2).unsqueeze(-1) * values.unsqueeze(3)).sum(0)
    mixed = torch.bmm(weights.flatten(0, 1), values.flatten(1, 2).transpose(0, 1))
    return mixed.view(*weights.shape[:3], -1)


AttentionInterface.register(NAME, attend)


def can_share(model: PreTrainedModel, prefix: DynamicCache, room: int) -> bool:
    """Whether the model lets its attention be chosen, and keeps all of the prefix and `room` tokens in plain layers.

    A necessary condition: that the results agree is for the caller to see (PatchedPrompt).
    """
    return bool(prefix.layers and model._supports_attention_backend) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
        and layer.is_initialized
        and layer.get_seq_length() + room <= getattr(layer, "sliding_window", torch.inf)
        for layer in prefix.layers
    )


@contextmanager
def shared_prefix_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model attends through `attend` inside the block; pass it `shared_prefix=` the cache."""
    usual = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(usual)
