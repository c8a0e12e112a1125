"""The target prompt: read up to its placeholder once, then continued from any vectors that replace it."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache

from .. import InputError
from ..models.load import LanguageModel
from ..words.components import INSIDE, Site
from ..words.decoding import Contrast, Decoding, Sampling
from ..words.plans import placeholders_of
from ..words.target import TargetPrompt
from .attention import SharedPrefixCache, can_share, shared_prefix_attention
from .batches import StopAsked, is_out_of_memory, one_line
from .compile import compile_blocks, compiled
from .hooks import Place, patch, record
from .sampling import contrasted, draw, entropy_of, greedy, log_prob_of
from .writing import Writing, Written

SAME_LOGITS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}  # relative difference that rounding explains


class PatchedPrompt:
    """A target prompt read up to its placeholder, to be continued from any vectors.

    Two interpretations with the same target prompt differ only from the placeholder on: in a causal model nothing
    before it can see the patch. So the prefix runs once, and its keys and values serve all rows. A row costs the
    placeholder, what follows it in the prompt (nothing, in the paper's), and its new tokens.

    Where the model allows it (`shares_prefix`), attention reads the prefix once for all rows; otherwise the model's
    attention reads a copy for each row. For a long run the blocks can be compiled (`fuse`). The results are the same
    to the rounding: each way is tried on this prompt, beside the model's usual way, before it is used.

    Attributes:
        target_prompt: T, its placeholder located in this model's tokens.
        max_new_tokens: how many tokens a row may write.
        positions: of the placeholders within the tail, which begins with the first of them.
        placeholder_states: target site -> (width,) float32 on the CPU, the placeholder's own state there, such as
            h_{i*}^{ℓ*}; of several placeholders (placeholders, width). A patch of one placeholder doesn't reach
            another's state at the same site.
        shares_prefix: whether attention reads the prefix once for all rows.
        fused_rows: sizes of the batches that can run compiled.
        why_not: why the model does without one or both of these, if something went wrong when it was tried.
    """

    @torch.inference_mode()
    def __init__(self, lm: LanguageModel, target_prompt: TargetPrompt, max_new_tokens: int):
        self.lm, self.max_new_tokens = lm, max_new_tokens
        self.target_prompt = target_prompt = target_prompt.located(lm)
        ids = torch.tensor([lm.token_ids(target_prompt.text)], device=lm.device)
        position, *others = placeholders_of(target_prompt, lm)
        self.positions = [0, *(other - position for other in others)]
        self.tail = ids[:, position:]  # the first placeholder and what follows it
        self.room = self.tail.shape[1] + max_new_tokens - 1  # tokens that a row adds to the cache
        self.prefix = DynamicCache(config=lm.model.config)
        if position:
            lm.model(ids[:, :position], past_key_values=self.prefix, logits_to_keep=1)
        self.shares_prefix, self.fused_rows, self.why_not = False, set(), ""
        self._shared: SharedPrefixCache | None = None  # kept from batch to batch
        self._targets = targets_of(lm)
        outputs = {site: place.module for site, place in self._targets.items() if not place.receives}
        inputs = {site: place.module for site, place in self._targets.items() if place.receives}
        with record(outputs, inputs) as seen:
            logits = self._trial(rows=2, passes=1)
        self.placeholder_states = {
            site: self._at_placeholders(seen[site], place) for site, place in self._targets.items() if site in seen
        }
        if lm.model._is_stateful or lm.source.options.trust_remote_code:  # may not go on from where it was left
            whole = lm.model(ids, logits_to_keep=1).logits[:, -1].float()
            if _difference(whole, logits[:1]) > SAME_LOGITS[lm.dtype]:
                why = f"{lm.model.config.model_type} can't be read up to the placeholder and go on from there"
                raise InputError("model", lm.name, why)
        if can_share(lm.model, self.prefix, self.room):
            usual = self._trial(rows=2, passes=2)
            self.shares_prefix = True
            if not self._agrees(usual, rows=2, passes=2):
                self.shares_prefix, self._shared = False, None

    def _at_placeholders(self, seen: Tensor, place: Place) -> Tensor:
        """Return the placeholders' states in what was recorded of two rows at a place."""
        own = seen.view(2, -1, seen.shape[-1])[0, self.positions] * place.scale
        return (own if isinstance(self.target_prompt.placeholder, tuple) else own[0]).float().cpu()

    def check_vectors(self, vectors: Tensor) -> None:
        """Refuse vectors for each placeholder that are not as many as the placeholders."""
        if vectors.dim() == 3 and vectors.shape[1] != len(self.positions):
            allowed = f"expected a vector, or one for each of {len(self.positions)} placeholders"
            raise InputError("vectors", tuple(vectors.shape), allowed)

    def is_for(self, lm: LanguageModel, target_prompt: TargetPrompt, max_new_tokens: int) -> bool:
        """Tell whether it was made from exactly these, so that it can be used again."""
        if self.lm is not lm or self.max_new_tokens != max_new_tokens:
            return False
        return self.target_prompt == target_prompt.located(lm)

    @torch.inference_mode()
    def fuse(self, rows: int) -> bool:
        """Compile the blocks for batches of exactly this many rows; return whether that works for this model here."""
        if rows in self.fused_rows:
            return True
        if not self.shares_prefix:
            return False
        usual = self._trial(rows, passes=3)
        try:
            self._forwards = compile_blocks(self.lm.blocks)
        except RuntimeError as error:  # also raised for a Python that torch.compile doesn't know yet
            self.why_not = str(error)
            return False
        if self._agrees(usual, rows, passes=3, fused=True):
            self.fused_rows.add(rows)
        return rows in self.fused_rows

    @torch.inference_mode()
    def continue_from(
        self,
        vectors: Tensor,
        targets: Sequence[Site],
        decoding: Decoding | None = None,
        seeds: Sequence[int] | None = None,
        max_new_tokens: int | None = None,
        fused: bool | None = None,
        stop: Callable[[], bool] | None = None,
        stop_at_item: bool = False,
    ) -> Written:
        """Write new tokens for one batch. Rows that have ended leave it once half of it have.

        Under `Contrast`, the model runs twice as many rows: behind the patched ones stand their nulls, which no hook
        touches and which are given the tokens that the patched ones choose.

        Args:
            vectors: (rows, width) float32, already amplified; or (rows, placeholders, width), one for each.
            targets: (rows,) where each row is patched.
            decoding: None is greedy.
            seeds: (rows,) of one generator per row, so that a row's draws don't depend on its batch.
            max_new_tokens: fewer than the prompt was made for, if given.
            fused: run the compiled blocks; if left out, whenever they were compiled for so many rows of the model.
            stop: asked before each token.
            stop_at_item: end a row when its first list item is over: when it has written the prompt's separator.

        Raises:
            StopAsked: `stop` said so; nothing of the batch is returned.
        """
        copies = 2 if isinstance(decoding, Contrast) else 1
        rows = copies * len(vectors)
        fused = rows in self.fused_rows if fused is None else fused
        fused = fused and not any(target.component in INSIDE for target in targets)
        drawn = isinstance(decoding, Sampling)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds] if drawn else None
        steps, separator = max_new_tokens or self.max_new_tokens, self.target_prompt.stop if stop_at_item else ""

        with ExitStack() as way:
            cache = way.enter_context(self._prepared(rows, fused))
            with self._patched(targets, vectors, rows):  # the only pass that is patched
                logits = self._next_logits(self.tail.expand(rows, -1), cache)
            writing, chosen = Writing(self.lm, logits[: len(vectors)], steps, separator), self.tail[:, -1]
            for step in range(steps):
                if stop and stop():
                    raise StopAsked
                if step:
                    logits = self._next_logits(chosen.repeat(copies)[:, None], cache)
                scores, logits = logits, logits[: len(writing.present)]  # how sure it was is told by the patched rows alone
                if copies > 1:
                    scores = contrasted(decoding, *scores.chunk(copies))
                largest, chosen = greedy(scores)
                usable = largest.isfinite()  # the largest of logits with a NaN is the NaN
                if drawn:
                    chosen = torch.where(usable, draw(decoding, logits.float(), generators), chosen)
                if writing.add(chosen, usable, log_prob_of(logits, chosen)):
                    break
                before = len(writing.present)
                if step < steps - 1 and (stay := writing.leave()) is not None:
                    if fused:  # compiled for whole batches
                        way.close()
                        way.enter_context(self._way(fused=False))
                    chosen = chosen[stay]
                    generators = [generators[place] for place in stay.tolist()] if drawn else None
                    cache.reorder_cache(torch.cat([stay + before * copy for copy in range(copies)]))
        return writing.written()

    @torch.inference_mode()
    def log_probs_of(
        self, texts: Sequence[Sequence[int]], vectors: Tensor, targets: Sequence[Site]
    ) -> tuple[list[Tensor], Tensor]:
        """Score given continuations in one pass, each token after the true ones before it (teacher forcing).

        Args:
            texts: (rows,) lists of 1 to `max_new_tokens` token ids.
            vectors, targets: as in `continue_from`.

        Returns:
            (rows,) log-probabilities of a row's tokens, each (tokens,) float32; (rows,) entropy in nats of the first
            token's distribution, float32; both on the CPU.
        """
        rows, longest = len(texts), max(map(len, texts))
        padded = torch.zeros(rows, longest, dtype=torch.long)  # to the right, where causal attention never looks
        for row, tokens in enumerate(texts):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        padded = padded.to(self.lm.device)
        ids = torch.cat([self.tail.expand(rows, -1), padded[:, :-1]], 1)
        with self._prepared(rows, fused=False) as cache, self._patched(targets, vectors, rows):
            logits = self._logits(ids, cache, longest)
        found = log_prob_of(logits.flatten(0, 1), padded.flatten()).view(rows, longest).cpu()
        return [found[row, : len(tokens)] for row, tokens in enumerate(texts)], entropy_of(logits[:, 0]).cpu()

    @torch.inference_mode()
    def log_probs_along(
        self, head: Sequence[int], wanted: Sequence[Sequence[int]], vectors: Tensor, targets: Sequence[Site]
    ) -> Tensor:
        """Score tokens that may follow the prompt, or a common beginning after it, in one pass.

        Args:
            head: fewer than `max_new_tokens` token ids, the same for all rows; may be empty.
            wanted: (head + 1,) lists of token ids: the first, of those that may follow the prompt; then, after each
                further token of the head.
            vectors, targets: as in `continue_from`.

        Returns:
            (rows, all that are wanted) log-probabilities, in their order, float32 on the CPU.
        """
        rows = len(vectors)
        ids = torch.cat([self.tail, torch.tensor([head], dtype=torch.long, device=self.tail.device)], 1)
        with self._prepared(rows, fused=False) as cache, self._patched(targets, vectors, rows):
            logits = self._logits(ids.expand(rows, -1), cache, len(wanted))
        found = []
        for step, tokens in enumerate(wanted):
            whole = logits[:, step].float()
            found.append(whole[:, tokens] - whole.logsumexp(-1, keepdim=True))
        return torch.cat(found, 1).cpu()

    @contextmanager
    def _patched(self, targets: Sequence[Site], vectors: Tensor, rows: int) -> Iterator[None]:
        """Patch each row's vector in at its site, at the placeholders; the first of them follows the prefix.

        The prefix before it can't see the patch, and the keys and values of the placeholders and of what follows are
        made in this pass, so that they hold the patch wherever in the model it is put.

        Args:
            rows: of the pass; those beyond the targets are not patched.
        """
        sites = list(dict.fromkeys(targets))
        numbers = {site: number for number, site in enumerate(sites)}
        places = [self._targets[site] for site in sites]
        numbered = torch.tensor([numbers[site] for site in targets])
        with patch(places, numbered, vectors, self.positions, rows):
            yield

    @contextmanager
    def _prepared(self, rows: int, fused: bool) -> Iterator[DynamicCache | SharedPrefixCache]:
        """Set the model up for a batch: its usual way, sharing the prefix, or compiled as well; yield the cache."""
        with self._way(fused):
            yield self._after_prefix(rows, self.lm.model.dtype if fused else torch.float32)

    @contextmanager
    def _way(self, fused: bool) -> Iterator[None]:
        """Set up how the model runs."""
        with ExitStack() as way:
            if self.shares_prefix:
                way.enter_context(shared_prefix_attention(self.lm.model))
            if fused:
                way.enter_context(compiled(self.lm.blocks, self._forwards))
            yield

    def _after_prefix(self, rows: int, dtype: torch.dtype) -> DynamicCache | SharedPrefixCache:
        """Return a cache in which this many rows have read the prefix."""
        if self.shares_prefix:
            if self._shared is None or self._shared.made_for != (rows, dtype):
                self._shared = None  # freed before a new one is allocated
                self._shared = SharedPrefixCache(self.prefix, rows, self.room, dtype)
            self._shared.forget_rows()
            return self._shared
        cache = copy.deepcopy(self.prefix)
        cache.reorder_cache(torch.zeros(rows, dtype=torch.long, device=self.lm.device))  # its only row, repeated
        return cache

    def _next_logits(self, ids: Tensor, cache: DynamicCache | SharedPrefixCache) -> Tensor:
        """Return (rows, vocabulary) logits after `ids` (rows, tokens), which are added to the cache."""
        return self._logits(ids, cache, last=1)[:, -1]

    def _logits(self, ids: Tensor, cache: DynamicCache | SharedPrefixCache, last: int) -> Tensor:
        """Return (rows, last, vocabulary) logits after each of the last tokens of `ids`, which are added to the cache."""
        if not self.shares_prefix:
            return self.lm.model(ids, past_key_values=cache, logits_to_keep=last).logits[:, -last:]
        logits = self.lm.model(ids, past_key_values=cache, logits_to_keep=last, shared_prefix=cache).logits[:, -last:]
        cache.suffix_tokens += ids.shape[1]
        return logits

    def _trial(self, rows: int, passes: int, fused: bool = False) -> Tensor:
        """Return (rows, vocabulary) logits after the unpatched prompt and a few tokens, others in every second row."""
        ids = self.tail.expand(rows, -1)
        more = self.tail[:, -1:] + torch.arange(rows, device=ids.device)[:, None] % 2
        with self._prepared(rows, fused) as cache:
            for _ in range(min(passes, self.max_new_tokens)):
                logits, ids = self._next_logits(ids, cache), more
        return logits.float()

    def _agrees(self, usual: Tensor, rows: int, passes: int, fused: bool = False) -> bool:
        """Try the new way; tell whether it gives the usual logits in every row, apart from a common offset."""
        try:
            logits = self._trial(rows, passes, fused)
        except Exception as error:  # any kind: a family or a machine that this way is not for
            if is_out_of_memory(error):
                raise
            self.why_not = one_line(error)
            return False
        difference = _difference(usual, logits)
        agrees = difference <= SAME_LOGITS[self.lm.dtype]
        self.why_not = "" if agrees else f"logits differ by {difference:.1e}"
        return agrees

    @property
    def placeholder_norms(self) -> Tensor:
        """Return the norm of the placeholder's own hidden state after each block: (layers,) float32."""
        states = [self.placeholder_states[Site("hidden_state", layer)] for layer in range(self.lm.num_layers)]
        return torch.stack([state.norm() for state in states])

    @property
    def bytes(self) -> int:
        """Return the bytes that its keys and values take, those of rows included that are kept from batch to batch."""
        layers = [*self.prefix.layers, *(self._shared.layers if self._shared else ())]
        parts = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
        return sum(part.untyped_storage().nbytes() for part in parts if isinstance(part, Tensor))

    @property
    def row_bytes(self) -> int:
        """Return the bytes that a row needs: its keys, values and float32 logits, and as much again on the way."""
        layers = [layer for layer in self.prefix.layers if getattr(layer, "keys", None) is not None]
        per_token = sum(layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel() for layer in layers)
        per_token = per_token or 2 * self.lm.num_layers * self.lm.width
        tokens = self.room + (0 if self.shares_prefix else self.prefix.get_seq_length())
        return 2 * 4 * (per_token * tokens + 2 * self.lm.config.get_text_config().vocab_size)


def targets_of(lm: LanguageModel) -> dict[Site, Place]:
    """Return where vectors can be patched in, each of `components.PLACES` in each block."""
    places = {Site("embedding", 0): Place(lm.model.get_input_embeddings())}
    for site, module in lm.parts.modules().items():
        scaled = site.component in INSIDE and lm.parts.convention.scale
        places[site] = Place(module, scale=getattr(lm.blocks[site.layer], scaled) if scaled else 1.0)
    return places | {Site("block_input", layer): Place(block, receives=True) for layer, block in enumerate(lm.blocks)}


def _difference(usual: Tensor, logits: Tensor) -> float:
    """Return the largest relative difference of (rows, vocabulary) logits in any row, apart from a common offset."""
    usual, logits = (values - values.mean(-1, keepdim=True) for values in (usual, logits))
    return ((logits - usual).norm(dim=-1) / usual.norm(dim=-1)).max().item()
