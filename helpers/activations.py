"""Run source prompts and keep what their blocks produced: hidden states, MLP and attention outputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import InputError
from .hooks import record
from .models import LanguageModel
from .plans import COMPONENTS

TOKENS_PER_PASS = 512  # bounds the memory of a capture: layers × width × 3 components of so many tokens


@dataclass(frozen=True)
class Activations:
    """What one prompt left inside the model.

    Attributes:
        tokens: each token of the prompt, decoded alone.
        hidden_state, mlp_output, attention_output: (layers, tokens, width), in the model's dtype.

    `activations["pre_mlp_residual"]` is hidden_state − mlp_output (paper §3.3), and the other components by name.
    """

    tokens: list[str]
    hidden_state: Tensor
    mlp_output: Tensor
    attention_output: Tensor

    def __getitem__(self, component: str) -> Tensor:
        if component == "pre_mlp_residual":
            return self.hidden_state - self.mlp_output
        if component not in COMPONENTS:
            raise InputError("component", component, f"expected {', '.join(COMPONENTS)}")
        return getattr(self, component)


def capture(lm: LanguageModel, prompt: str) -> Activations:
    """Activations of one prompt."""
    return capture_batch(lm, [prompt])[0]


def capture_batch(lm: LanguageModel, prompts: Sequence[str]) -> list[Activations]:
    """Activations of many prompts, of any lengths, in their order."""
    return list(iter_captures(lm, prompts))


def iter_captures(lm: LanguageModel, prompts: Sequence[str]) -> Iterator[Activations]:
    """The same one by one, holding the activations of at most TOKENS_PER_PASS tokens (or one prompt)."""
    ids = [lm.token_ids(prompt) for prompt in prompts]
    start = 0
    while start < len(ids):
        end, longest = start + 1, len(ids[start])
        while end < len(ids) and max(longest, len(ids[end])) * (end + 1 - start) <= TOKENS_PER_PASS:
            longest = max(longest, len(ids[end]))
            end += 1
        yield from _one_pass(lm, ids[start:end])
        start = end


@torch.inference_mode()
def _one_pass(lm: LanguageModel, ids: list[list[int]]) -> list[Activations]:
    """Activations of a few prompts, padded on the right: causal attention never looks there."""
    lengths = torch.tensor([len(one) for one in ids])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)
    real = torch.arange(padded.shape[1]) < lengths[:, None]
    modules = {}
    for layer, block in enumerate(lm.blocks):
        modules["hidden_state", layer] = block
        modules["mlp_output", layer] = block.mlp
        modules["attention_output", layer] = block.self_attn
    with record(modules) as seen:
        lm.model(
            padded.to(lm.device), attention_mask=real.long().to(lm.device), use_cache=False, logits_to_keep=1
        )
    return [
        Activations(
            [lm.tokenizer.decode([token]) for token in one],
            **{
                component: torch.stack([seen[component, layer][row, : len(one)] for layer in range(lm.num_layers)])
                for component in ("hidden_state", "mlp_output", "attention_output")
            },
        )
        for row, one in enumerate(ids)
    ]
