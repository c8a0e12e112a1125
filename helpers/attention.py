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
    """

    def __init__(self, prefix: DynamicCache, rows: int, room: int):
        super().__init__(layers=[_SharedPrefixLayer(layer.keys, layer.values, rows, room) for layer in prefix.layers])
        self.rows, self.room = rows, room

    def forget_rows(self) -> None:
        """Make the room free again for the next rows; the prefix stays."""
        for layer in self.layers:
            layer.own_tokens = 0


class _SharedPrefixLayer(CacheLayerMixin):
    """One block's part; float32 whatever the model's dtype, so that scores and their softmax lose nothing.

    Attributes:
        prefix_keys, prefix_values: (heads, prefix tokens, head size), heads of keys and values.
        keys, values: (heads, rows, room, head size), of which the first `own_tokens` are filled.
    """

    is_initialized = True

    def __init__(self, keys: Tensor, values: Tensor, rows: int, room: int):
        self.prefix_keys, self.prefix_values = keys[0].float(), values[0].float()
        self.keys = self.prefix_keys.new_empty(len(self.prefix_keys), rows, room, keys.shape[-1])
        self.values = self.prefix_values.new_empty(len(self.prefix_values), rows, room, values.shape[-1])
        self.own_tokens = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do: the prefix told all shapes."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of new tokens, (rows, heads, tokens, head size); `attend` reads them from here."""
        new = slice(self.own_tokens, self.own_tokens + key_states.shape[2])
        self.keys[:, :, new] = key_states.transpose(0, 1)
        self.values[:, :, new] = value_states.transpose(0, 1)
        self.own_tokens = new.stop
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.prefix_keys.shape[1] + self.own_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.prefix_keys.shape[1] + self.keys.shape[2]


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
    layer = shared_prefix.layers[module.layer_idx]
    heads, prefix, size = layer.prefix_keys.shape
    rows, query_heads, new, _ = query.shape
    own, lines = layer.own_tokens, query_heads // heads * new  # lines: queries of one row that share a head's keys
    keys, values = (own_part.flatten(0, 1)[:, :own] for own_part in (layer.keys, layer.values))

    query = query.float() * (size**-0.5 if scaling is None else scaling)
    query = query.reshape(rows, heads, lines, size).transpose(0, 1).reshape(heads, rows * lines, size)
    to_prefix = torch.bmm(query, layer.prefix_keys.transpose(1, 2)).view(heads * rows, lines, prefix)
    to_own = torch.bmm(query.view(heads * rows, lines, size), keys.transpose(1, 2))
    if new > 1:  # the last new token sees all own tokens, the one before it all but one
        later = torch.ones(new, own, dtype=torch.bool, device=query.device).triu(own - new + 1)
        to_own.masked_fill_(later.repeat(lines // new, 1), -torch.inf)

    weights = torch.cat([to_prefix, to_own], -1).softmax(-1)
    of_prefix = torch.bmm(weights.view(heads, rows * lines, -1)[..., :prefix], layer.prefix_values)
    output = of_prefix.view(heads * rows, lines, -1).baddbmm_(weights[..., prefix:], values)
    output = output.view(heads, rows, lines, -1).transpose(0, 1).to(value.dtype)
    return output.reshape(rows, query_heads, new, -1).transpose(1, 2), None


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
