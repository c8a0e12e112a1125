"""Ways to do the same work: read vectors out of a model by patching them into the target prompt, greedily.

Each way is a function of a Work that returns its texts; `floor` returns none, it only multiplies the matrices. What a
way builds once, before the clock starts, its `prepare` gives it.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from helpers.engine.prompt import PatchedPrompt
from helpers.models.load import LanguageModel
from helpers.words.components import Site
from helpers.words.target import TargetPrompt
from tests.reference import plain_interpret

NEW_TOKENS = 10


@dataclass(frozen=True)
class Work:
    """Vectors to interpret.

    Attributes:
        vectors: (rows, width) float32; target_layers: (rows,) int64.
        batch_size: rows at a time, for the ways that batch.
        peer: what a way has built around the model before the clock starts (`prepare`).
    """

    lm: LanguageModel
    vectors: Tensor
    target_layers: Tensor
    batch_size: int
    peer: object = None

    @property
    def prompt_ids(self) -> list[int]:
        return self.lm.token_ids(TargetPrompt().text)

    def first(self, rows: int) -> "Work":
        return replace(self, vectors=self.vectors[:rows], target_layers=self.target_layers[:rows])

    def batches(self):
        """(ids of the whole prompt, {layer: (rows patched there, their vectors)}) of each batch."""
        for start in range(0, len(self.vectors), self.batch_size):
            layers = self.target_layers[start : start + self.batch_size]
            vectors = self.vectors[start : start + self.batch_size].to(self.lm.device, self.lm.model.dtype)
            ids = torch.tensor([self.prompt_ids], device=self.lm.device).expand(len(layers), -1)
            rows_of = {layer: (layers == layer).nonzero().squeeze(1) for layer in layers.unique().tolist()}
            yield ids, {layer: (rows.to(ids.device), vectors[rows]) for layer, rows in rows_of.items()}

    def texts(self, generated: Tensor) -> list[str]:
        """What was written after the prompt."""
        return self.lm.tokenizer.batch_decode(generated[:, len(self.prompt_ids) :], skip_special_tokens=True)


@torch.inference_mode()
def floor(work: Work) -> None:
    """The bare matrix products of the same tokens: each linear layer once for each new token, at the batch size."""
    linears = [module for module in work.lm.model.modules() if isinstance(module, nn.Linear)]
    for start in range(0, len(work.vectors), work.batch_size):
        rows = min(work.batch_size, len(work.vectors) - start)
        inputs = {linear.in_features: work.peer[linear.in_features][:rows] for linear in linears}
        for _ in range(NEW_TOKENS):
            for linear in linears:
                nn.functional.linear(inputs[linear.in_features], linear.weight, linear.bias)


def prepare_floor(work: Work) -> dict[int, Tensor]:
    model = work.lm.model
    widths = {module.in_features for module in model.modules() if isinstance(module, nn.Linear)}
    return {n: torch.randn(work.batch_size, n, device=model.device).to(model.dtype) for n in widths}


def engine(work: Work) -> list[str]:
    """This project: the batches of a plan, one after another."""
    texts = []
    for start in range(0, len(work.vectors), work.batch_size):
        batch = slice(start, start + work.batch_size)
        targets = [Site("hidden_state", layer) for layer in work.target_layers[batch].tolist()]
        written = work.peer.continue_from(work.vectors[batch], targets)
        texts += work.lm.tokenizer.batch_decode(written.tokens, skip_special_tokens=True)
    return texts


def prepare_engine(work: Work) -> PatchedPrompt:
    """The prefix read, and the trial beside the model's own way: what a sweep does once."""
    return PatchedPrompt(work.lm, TargetPrompt(), NEW_TOKENS)


def prepare_compiled_engine(work: Work) -> PatchedPrompt:
    """As a long sweep does, the blocks compiled as well."""
    prompt = prepare_engine(work)
    if not prompt.fuse(work.batch_size):
        print(f"this engine: not compiled here ({prompt.why_not})")
    return prompt


def plain(work: Work) -> list[str]:
    """One `generate` with one hook per vector."""
    places = zip(work.vectors, work.target_layers.tolist(), strict=True)
    return [
        plain_interpret(work.lm.model, work.lm.tokenizer, vector.to(work.lm.device), layer, TargetPrompt().text)
        for vector, layer in places
    ]


@torch.inference_mode()
def batched_generate(work: Work) -> list[str]:
    """transformers' `generate` on a batch, hooks that patch each row, the whole prompt each time."""

    def overwriting(rows, vectors):
        def hook(module, args, output):
            if output.shape[1] > 1:  # the pass that reads the prompt
                output[rows, -1] = vectors

        return hook

    texts = []
    for ids, patches in work.batches():
        handles = [work.lm.blocks[layer].register_forward_hook(overwriting(*at)) for layer, at in patches.items()]
        try:
            generated = work.lm.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS
            )
        finally:
            for handle in handles:
                handle.remove()
        texts += work.texts(generated)
    return texts


@torch.inference_mode()
def nnsight(work: Work) -> list[str]:
    """nnsight's `generate` on a batch, the whole prompt each time."""
    model, texts = work.peer, []
    for ids, patches in work.batches():
        with model.generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS) as tracer:
            for layer, (rows, vectors) in patches.items():
                model.model.layers[layer].output[rows, -1] = vectors
            generated = tracer.result.save()
        texts += work.texts(generated)
    return texts


def prepare_nnsight(work: Work) -> object:
    from nnsight import TransformersModel

    return TransformersModel(copy.deepcopy(work.lm.model), tokenizer=work.lm.tokenizer, task="text-generation")


@torch.inference_mode()
def transformer_lens(work: Work) -> list[str]:
    """TransformerLens' bridge, `generate` on a batch with its cache, the whole prompt each time."""

    def overwriting(rows, vectors):
        def hook(tensor, hook):
            if tensor.shape[1] == 1:
                return tensor
            tensor = tensor.clone()
            tensor[rows, -1] = vectors
            return tensor

        return hook

    texts = []
    for ids, patches in work.batches():
        hooks = [(f"blocks.{layer}.hook_out", overwriting(*at)) for layer, at in patches.items()]
        with work.peer.hooks(fwd_hooks=hooks):
            generated = work.peer.generate(
                ids, NEW_TOKENS, do_sample=False, return_type="tokens", verbose=False, prepend_bos=False
            )
        texts += work.texts(generated)
    return texts


def prepare_transformer_lens(work: Work) -> object:
    from transformer_lens.model_bridge import TransformerBridge

    lm = work.lm
    return TransformerBridge.boot_transformers(
        str(lm.source.folder),
        hf_model=copy.deepcopy(lm.model),
        tokenizer=lm.tokenizer,
        device=lm.device,
        dtype=lm.model.dtype,
    )
