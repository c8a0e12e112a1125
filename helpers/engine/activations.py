"""Run source prompts and keep what their blocks produced: hidden states, MLP and attention outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .. import InputError
from ..models.load import LanguageModel
from ..models.pieces import pieces_of
from ..words.components import COMPONENTS, Site
from .hooks import ending_at, record
from .sampling import greedy

TOKENS_PER_PASS = 512  # bounds a capture's memory: layers × width × 3 components of so many tokens
CAPTURED = ("hidden_state", "mlp_output", "attention_output")  # pre_mlp_residual is derived from the first two


@dataclass(frozen=True)
class Activations:
    """What one prompt produced inside the model. `activations[component]` is any of its tensors by name.

    Attributes:
        tokens: (tokens,) each token of the prompt, as `ModelCard.decoded_tokens` decodes it.
        hidden_state, mlp_output, attention_output: (layers, tokens, width), in the model's dtype; of all layers, or of
            the first ones up to the deepest that was asked for.
    """

    tokens: list[str]
    hidden_state: Tensor
    mlp_output: Tensor
    attention_output: Tensor

    @cached_property
    def pre_mlp_residual(self) -> Tensor:
        """(layers, tokens, width) hidden_state − mlp_output: the residual before the MLP adds to it (paper §3.3)."""
        return self.hidden_state - self.mlp_output

    def __getitem__(self, component: str) -> Tensor:
        if component not in COMPONENTS:
            raise InputError("component", component, f"expected {', '.join(COMPONENTS)}")
        return getattr(self, component)


def capture(lm: LanguageModel, prompt: str) -> Activations:
    """Return the activations of one prompt."""
    return capture_batch(lm, [prompt])[0]


def capture_batch(lm: LanguageModel, prompts: Sequence[str], deepest: int | None = None) -> list[Activations]:
    """Return the activations of many prompts, of any lengths, in their order.

    Args:
        deepest: the last layer that is needed: the passes end there. All layers, if left out.

    Raises:
        InputError: a layer that this model doesn't have.
    """
    if deepest is not None and not 0 <= deepest < lm.num_layers:
        raise InputError("deepest", deepest, f"expected a layer of 0–{lm.num_layers - 1}")
    return [activations for part in _cut_into_passes(lm, prompts) for activations in _capture_pass(lm, part, deepest)]


class Inspected(Activations):
    """What a long prompt produced at the tokens that are inspected alone: `[component][layer, position]`, one of them.

    The tensors are (layers, inspected tokens, width).
    """

    def __init__(self, at: Activations, positions: Sequence[int]):
        super().__init__(at.tokens, at.hidden_state, at.mlp_output, at.attention_output)
        object.__setattr__(self, "_places", {position: place for place, position in enumerate(positions)})

    def __getitem__(self, component: str) -> "_AtPositions":
        return _AtPositions(super().__getitem__(component), self._places)


class _AtPositions(NamedTuple):
    """One component's vectors of an inspected prompt."""

    vectors: Tensor
    places: Mapping[int, int]

    def __getitem__(self, key: tuple[int | slice, int]) -> Tensor:
        layer, position = key
        return self.vectors[layer, self.places[position]]


class CapturedPrompts:
    """The activations of a plan's prompts, by prompt. Only one pass's worth is in memory at a time.

    Of a prompt that is longer than a pass, only the inspected tokens are kept: of all 5,000 tokens of a page, a model of
    135 million parameters would hold 1.4 GB.

    Passes are cut from all of the plan's prompts, never from a batch of rows, so that a vector's last digits don't
    depend on how rows are batched or where a run resumed. For the same reason, only plans with the very same prompts
    can share them. Ask in the order of the prompts, or passes are run again.

    Args:
        inspected: prompt -> positions of the tokens that are asked for (`Plan.inspected`); all of them, if left out.
    """

    def __init__(
        self, lm: LanguageModel, prompts: Sequence[str], inspected: Mapping[str, Sequence[int]] | None = None
    ):
        self._lm, self._prompts, self._inspected = lm, tuple(prompts), inspected
        self._passes = _cut_into_passes(lm, prompts)
        self._pass_of = {prompt: number for number, part in enumerate(self._passes) for prompt in part}
        self._current, self._captured = -1, {}

    def is_for(
        self, lm: LanguageModel, prompts: Sequence[str], inspected: Mapping[str, Sequence[int]] | None = None
    ) -> bool:
        """Tell whether these are the activations of exactly these prompts in this model, with all inspected tokens."""
        if self._lm is not lm or self._prompts != tuple(prompts):
            return False
        return all(
            inspected and {*inspected[prompt]} <= {*kept}
            for prompt in prompts
            if (kept := self._kept_of(prompt)) is not None
        )

    def _kept_of(self, prompt: str) -> Sequence[int] | None:
        """Return the positions that are kept of a prompt; None if all are."""
        is_long = self._inspected is not None and len(self._lm.token_ids(prompt)) > TOKENS_PER_PASS
        return self._inspected[prompt] if is_long else None

    def __getitem__(self, prompt: str) -> Activations:
        if self._pass_of[prompt] != self._current:
            self._captured = {}  # freed before the next pass needs the memory
            self._current = self._pass_of[prompt]
            part = self._passes[self._current]
            kept = self._kept_of(part[0])  # a long prompt has a pass of its own
            found = _capture_pass(self._lm, part, positions=kept)
            found = found if kept is None else [Inspected(found[0], kept)]
            self._captured = dict(zip(part, found, strict=True))
        return self._captured[prompt]


def _cut_into_passes(lm: LanguageModel, prompts: Sequence[str]) -> list[list[str]]:
    """Group neighbouring prompts: at most TOKENS_PER_PASS tokens with their padding, or a single longer prompt."""
    passes, longest = [], 0
    for prompt in prompts:
        longest = max(longest, length := len(lm.token_ids(prompt)))
        if passes and longest * (len(passes[-1]) + 1) <= TOKENS_PER_PASS:
            passes[-1].append(prompt)
        else:
            passes.append([prompt])
            longest = length
    return passes


@torch.inference_mode()
def _capture_pass(
    lm: LanguageModel, prompts: list[str], deepest: int | None = None, positions: Sequence[int] | None = None
) -> list[Activations]:
    """Run a few prompts together, padded on the right, where causal attention never looks.

    Args:
        positions: of a single prompt's tokens; the activations are of these alone.
    """

    def few(hidden: Tensor) -> Tensor:
        return hidden.reshape(1, -1, hidden.shape[-1])[:, positions]

    layers = range(lm.num_layers if deepest is None else deepest + 1)
    ids = [lm.token_ids(prompt) for prompt in prompts]
    lengths = torch.tensor([len(tokens) for tokens in ids])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens in ids], batch_first=True)
    real = torch.arange(padded.shape[1]) < lengths[:, None]
    keep = Tensor.clone if positions is None else few
    with record(_modules(lm, layers), keep=keep) as seen, ending_at(None if deepest is None else lm.blocks[deepest]):
        lm.model(padded.to(lm.device), attention_mask=real.long().to(lm.device), use_cache=False, logits_to_keep=1)
    captured = _captured(lm, seen, layers)
    return [
        Activations(
            list(map(str, pieces_of(lm.tokenizer, tokens))),
            **{component: vectors[:, row, : len(tokens)] for component, vectors in captured.items()},
        )
        for row, tokens in enumerate(ids)
    ]


class ContinuedPrompts:
    """The activations of a plan's prompts and of what the model writes on after each, by prompt; see
    `capture_continuation`. Only one prompt's are in memory at a time: ask in the order of the prompts.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[str], new_tokens: int):
        self._made_for = lm, tuple(prompts), new_tokens
        self._continued = lru_cache(1)(lambda prompt: capture_continuation(lm, prompt, new_tokens))

    def is_for(self, lm: LanguageModel, prompts: Sequence[str], new_tokens: int) -> bool:
        """Tell whether these are the activations of exactly these prompts, continued by as much, in this model."""
        return self._made_for[0] is lm and self._made_for[1:] == (tuple(prompts), new_tokens)

    def __getitem__(self, prompt: str) -> Activations:
        return self._continued(prompt)


@torch.inference_mode()
def capture_continuation(lm: LanguageModel, prompt: str, new_tokens: int) -> Activations:
    """Let the model write on after a prompt, greedily, and return the activations of the prompt and of what it wrote.

    Each token is captured in the pass that reads it, which the writing needs anyway; there is no second pass. Writing
    ends with the first token that ends a text, which is one of the written ones.

    Args:
        new_tokens: how many are written at most; where the text ends before, vectors are NaN, and tokens are "".
    """
    layers = range(lm.num_layers)
    given, cache = lm.token_ids(prompt), DynamicCache(config=lm.model.config)
    tokens, parts, longest = list(given), [], len(given) + new_tokens
    with record(_modules(lm, layers)) as seen:
        while True:
            ids = torch.tensor([given], device=lm.device)
            logits = lm.model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1]
            parts.append({component: vectors[:, 0] for component, vectors in _captured(lm, seen, layers).items()})
            if len(tokens) == longest or (len(parts) > 1 and tokens[-1] in lm.stop_tokens):
                break
            given = greedy(logits)[1].tolist()
            tokens += given
    missing = longest - len(tokens)
    captured = {
        component: torch.nn.functional.pad(torch.cat([part[component] for part in parts], 1), (0, 0, 0, missing), value=torch.nan)
        for component in CAPTURED
    }
    return Activations([*(lm.tokenizer.decode([token]) for token in tokens), *[""] * missing], **captured)


def _modules(lm: LanguageModel, layers: Sequence[int]) -> dict[Site, nn.Module]:
    return {site: module for site, module in lm.parts.modules().items() if site.layer in layers}


def _captured(lm: LanguageModel, seen: Mapping[Site, Tensor], layers: Sequence[int]) -> dict[str, Tensor]:
    """Return what was recorded in a pass: component -> (layers, rows, tokens, width), also if layers are on other devices."""

    def of_all_layers(component: str) -> Tensor:
        if component == "hidden_state":
            return torch.stack([seen.pop(Site(component, layer)).to(lm.device) for layer in layers])
        added = (
            lm.parts.added(seen.pop(Site(component, layer)), layer, seen[Site("hidden_state", layer)]) for layer in layers
        )
        return torch.stack([vectors.to(lm.device) for vectors in added])

    return {component: of_all_layers(component) for component in reversed(CAPTURED)}  # hidden states are used last
