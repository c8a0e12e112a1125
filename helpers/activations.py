"""Run source prompts and keep what their blocks produced: hidden states, MLP and attention outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import InputError
from .components import COMPONENTS
from .hooks import record
from .models import LanguageModel

TOKENS_PER_PASS = 512  # bounds the memory of a capture: layers × width × 3 components of so many tokens


@dataclass(frozen=True)
class Activations:
    """What one prompt left inside the model.

    Attributes:
        tokens: each token of the prompt, decoded alone.
        hidden_state, mlp_output, attention_output: (layers, tokens, width), in the model's dtype.

    `activations[component]` is any of them by its name.
    """

    tokens: list[str]
    hidden_state: Tensor
    mlp_output: Tensor
    attention_output: Tensor

    @cached_property
    def pre_mlp_residual(self) -> Tensor:
        """hidden_state − mlp_output: the residual stream before the MLP adds to it (paper §3.3)."""
        return self.hidden_state - self.mlp_output

    def __getitem__(self, component: str) -> Tensor:
        if component not in COMPONENTS:
            raise InputError("component", component, f"expected {', '.join(COMPONENTS)}")
        return getattr(self, component)


def capture(lm: LanguageModel, prompt: str) -> Activations:
    """Activations of one prompt."""
    return capture_batch(lm, [prompt])[0]


def capture_batch(lm: LanguageModel, prompts: Sequence[str]) -> list[Activations]:
    """Activations of many prompts, of any lengths, in their order."""
    return [activations for part in _cut_into_passes(lm, prompts) for activations in _one_pass(lm, part)]


class Sources:
    """Activations of a plan's prompts, looked up by prompt; one pass's worth is in memory at a time.

    Passes are cut from all the prompts, never from a batch of rows, so that a vector's last digits don't depend on
    how rows are batched or where a run resumed. Ask in the order of the prompts, or passes are run again.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[str]):
        self._lm = lm
        self._passes = _cut_into_passes(lm, prompts)
        self._pass_of = {prompt: number for number, part in enumerate(self._passes) for prompt in part}
        self._current, self._captured = -1, {}

    def __getitem__(self, prompt: str) -> Activations:
        if self._pass_of[prompt] != self._current:
            self._captured = {}  # freed before the next ones come
            self._current = self._pass_of[prompt]
            part = self._passes[self._current]
            self._captured = dict(zip(part, _one_pass(self._lm, part), strict=True))
        return self._captured[prompt]


def _cut_into_passes(lm: LanguageModel, prompts: Sequence[str]) -> list[list[str]]:
    """Neighbouring prompts together, at most TOKENS_PER_PASS tokens with their padding (or one prompt)."""
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
def _one_pass(lm: LanguageModel, prompts: list[str]) -> list[Activations]:
    """Activations of a few prompts, padded on the right: causal attention never looks there."""
    ids = [lm.token_ids(prompt) for prompt in prompts]
    lengths = torch.tensor([len(one) for one in ids])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)
    real = torch.arange(padded.shape[1]) < lengths[:, None]
    with record(lm.parts.modules()) as seen:
        lm.model(padded.to(lm.device), attention_mask=real.long().to(lm.device), use_cache=False, logits_to_keep=1)

    def layers(component: str) -> Tensor:  # (layers, rows, tokens, width), also of a model on several devices
        every = range(lm.num_layers)
        if component == "hidden_state":
            return torch.stack([seen[component, layer].to(lm.device) for layer in every])
        added = (lm.parts.added(seen[component, layer], layer, seen["hidden_state", layer]) for layer in every)
        return torch.stack([one.to(lm.device) for one in added])

    kept = {component: layers(component) for component in ("hidden_state", "mlp_output", "attention_output")}
    return [
        Activations(
            [lm.tokenizer.decode([token]) for token in one],
            **{component: vectors[:, row, : len(one)] for component, vectors in kept.items()},
        )
        for row, one in enumerate(ids)
    ]
