"""The method in two calls: interpret vectors, or run a plan batch by batch."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .. import InputError
from ..models.load import LanguageModel
from ..words.components import INSIDE, OUTPUT, PLACES, Site
from ..words.decoding import Contrast, Decoding
from ..words.grammar import check_whole
from ..words.machine import is_out_of_memory
from ..words.plans import Plan
from ..words.rows import DIGITS, NO_VECTOR, NOT_WRITTEN, STATUSES, Item, Reading
from ..words.target import TargetPrompt
from .activations import ContinuedPrompts
from .batches import Failures, StopAsked, check_batch_size, find_batch_size, one_line, run_with_bisection, timed
from .compile import FROM_ROWS
from .given import Sources, fits, sources_of
from .pace import PACE
from .prompt import PatchedPrompt
from .references import References
from .vectors import amplified_vectors, as_seed, put
from .writing import decoded


class Batch(NamedTuple):
    """A batch of a plan that was read.

    Attributes:
        items, readings: (rows,) each, in the plan's order.
        made: how: parts (1, or more if it failed as a whole), batch_size, shares_prefix, fused, device.
    """

    items: list[Item]
    readings: list[Reading]
    made: dict


def interpret(
    lm: LanguageModel,
    vectors: Tensor,
    target_layers: int | Sequence[int],
    target_prompt: TargetPrompt | None = None,
    max_new_tokens: int = 10,
    batch_size: int | None = None,
    decoding: Decoding | None = None,
    seeds: Sequence[int] | None = None,
    fused: bool | None = None,
    target_component: str | Sequence[str] = OUTPUT,
    way: str = "plain",
    amplifier: float = 1.0,
    stop_at_item: bool = False,
) -> list[str]:
    """Return what the model writes when each vector replaces the target prompt's placeholder (paper §3).

    Args:
        vectors: (n, width), already amplified; or (n, placeholders, width), one for each placeholder.
        target_layers: the block ℓ* whose output is overwritten: a single one, or (n,).
        target_prompt: T; the paper's if left out.
        batch_size: rows at a time; found by memory and a short measurement if left out. Never changes a text in
            float32.
        decoding: None is greedy; `Sampling` or `Contrast`.
        seeds: (n,) for sampling; 0 … n−1 if left out.
        fused: compile the model's blocks first; if left out, when n is large enough to pay for it (compile.FROM_ROWS).
        target_component: where in block ℓ* a vector is put: one of `components.PLACES`, or (n,).
        way, amplifier: what is put there (`components.WAYS`), but for `centred` and `guidance`; plain at 1 is the vector.
        stop_at_item: end a text before the target prompt's `stop`, and compute no more of it.

    Returns:
        (n,) continuations without special tokens, cut at end-of-sequence; "" where logits were not finite, or where a
        row failed or ran out of memory even alone.

    Raises:
        InputError: shapes or layers that this model doesn't have, not as many seeds as vectors, or no new tokens.
        SameFailures: many rows in a row failed in the same way.
    """
    targets = sites_of(lm, vectors, target_layers, len(vectors), target_component)
    seeds = range(len(vectors)) if seeds is None else seeds
    if len(seeds) != len(vectors):
        raise InputError("seeds", f"{len(seeds)} seeds", f"expected one for each of {len(vectors)} vectors")
    check_batch_size(batch_size)
    check_whole("max_new_tokens", max_new_tokens, 1)
    prompt = PatchedPrompt(lm, target_prompt or TargetPrompt(), max_new_tokens)
    prompt.check_vectors(vectors)
    if way != "plain" or amplifier != 1:
        own = [prompt.placeholder_states[target] for target in targets]
        vectors = torch.stack([put(way, amplifier, v.float().cpu(), h) for v, h in zip(vectors, own, strict=True)])
    inside = any(target.component in INSIDE for target in targets)
    writer = _Writer(prompt, len(vectors), batch_size, fused, decoding, inside, stop_at_item=stop_at_item)
    texts = []
    for start in range(0, len(vectors), writer.size):
        batch = slice(start, start + writer.size)

        def given(part: slice, batch=batch) -> tuple[Tensor, Sequence[Site], Sequence[int]]:
            return vectors[batch][part], targets[batch][part], seeds[batch][part]

        readings, _ = writer.write(len(targets[batch]), given)
        texts += [reading.result for reading in readings]
    return texts


def sites_of(
    lm: LanguageModel,
    vectors: Tensor | None,
    target_layers: int | Sequence[int],
    rows: int,
    target_component: str | Sequence[str] = OUTPUT,
) -> list[Site]:
    """Check vectors and target layers as `interpret` takes them; return where each row is patched.

    Raises:
        InputError: shapes or layers that this model doesn't have.
    """
    places = list(target_component) if isinstance(target_component, list | tuple) else [target_component] * rows
    if len(places) != rows or not {*places} <= {*PLACES}:
        why = f"expected one of {', '.join(PLACES)}, or one for each vector"
        raise InputError("target_component", target_component, why)
    if vectors is not None and (vectors.dim() not in (2, 3) or vectors.shape[-1] != lm.width):
        raise InputError("vectors", tuple(vectors.shape), f"expected shape (n, {lm.width})")
    allowed = f"expected a layer of 0–{lm.num_layers - 1}, or one for each vector"
    try:
        layers = torch.as_tensor(target_layers)
    except (TypeError, ValueError) as error:  # a text
        raise InputError("target_layers", target_layers, allowed) from error
    layers = layers.expand(rows) if layers.dim() == 0 else layers
    has_parts = layers.is_floating_point() and len(layers)  # an empty list has the type, too
    if has_parts or layers.shape != (rows,) or not ((0 <= layers) & (layers < lm.num_layers)).all():
        raise InputError("target_layers", target_layers, allowed)
    pairs = zip(places, layers.tolist(), strict=True)
    return [Site(place, 0 if place == "embedding" else layer) for place, layer in pairs]


def run(
    lm: LanguageModel,
    plan: Plan,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    fused: bool | None = None,
    done: Collection[str] = (),
    prompt: PatchedPrompt | None = None,
    sources: Sources | None = None,
    items: list[Item] | None = None,
    references: References | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Batch]:
    """Carry out a plan, batch by batch, in its order: the only loop that patches and generates.

    Batches are cut from the plan, so that any of them can be computed alone, with the same result. Memory is bounded by
    `batch_size`, not by the length of the plan.

    Args:
        batch_size: rows at a time; found once, at the call, if left out. A batch that fails is done in halves, so that
            only bad rows fail; the next batch is whole again.
        progress: called after each batch with (rows done, rows in all).
        fused: compile the model's blocks first; if left out, when the plan is long enough to pay for it
            (compile.FROM_ROWS).
        done: ids of rows that were read before; a batch of nothing else is passed over.
        prompt: the plan's target prompt, if it was read before; one that was made for something else isn't used.
        sources: what the plan's vectors are read from, likewise.
        items: the plan's items on this model, with ids, if they were expanded before.
        references: the means of the plan's references, likewise.
        stop: asked before each token; when it says so, the batches end, without the one in hand.

    Raises:
        InputError: at the call, before anything is computed, if the plan doesn't fit the model.
        SameFailures: many rows in a row failed in the same way.
    """
    reader = Reader(lm, plan, batch_size, fused, prompt, sources, items, references, stop)

    def batches():
        for start in reader.starts:
            batch = reader.items_of(start)
            if not all(item.id in done for item in batch):
                try:
                    read = reader.read(start)
                except StopAsked:
                    return
                yield read
            if progress:
                progress(start + len(batch), len(reader.items))

    return batches()


class Reader:
    """A plan on a model, ready to be read: any of its batches, in any order. Its arguments are those of `run`.

    Attributes:
        items: the plan's, with ids.
        size: rows of a batch.
    """

    def __init__(
        self,
        lm: LanguageModel,
        plan: Plan,
        batch_size: int | None = None,
        fused: bool | None = None,
        prompt: PatchedPrompt | None = None,
        sources: Sources | None = None,
        items: list[Item] | None = None,
        references: References | None = None,
        stop: Callable[[], bool] | None = None,
    ):
        check_batch_size(batch_size)
        self.items = plan.items(lm, lm.identity) if items is None else items
        if not (prompt and prompt.is_for(lm, plan.target_prompt, plan.max_new_tokens)):
            prompt = PatchedPrompt(lm, plan.target_prompt, plan.max_new_tokens)
        sources = sources if fits(sources, lm, plan) else sources_of(lm, plan)
        if plan.references and not (references and references.is_for(lm, plan.references)):
            references = References(lm, plan.references)
        self._prompt, self._sources, self._references = prompt, sources, references
        inside = any(place in INSIDE for place in plan.target_components)
        asked = plan.decoding, inside, stop, plan.stop_at_item
        self._writer = _Writer(prompt, len(self.items), batch_size, fused, *asked)
        self.size = self._writer.size

    @property
    def starts(self) -> range:
        """Where each batch begins."""
        return range(0, len(self.items), self.size)

    def items_of(self, start: int) -> list[Item]:
        """Return the items of the batch that begins at an index."""
        return self.items[start : start + self.size]

    def read(self, start: int) -> Batch:
        """Read the batch that begins at an index."""
        items, prompt = self.items_of(start), self._prompt

        def given(part: slice) -> tuple[Tensor, Sequence[Site], Sequence[int]]:
            some = items[part]
            vectors = amplified_vectors(some, self._sources, prompt.placeholder_states, self._references, prompt.target_prompt.span)
            return vectors, [item.target for item in some], [as_seed(f"{item.seed} {item.id}") for item in some]

        readings, parts = self._writer.write(len(items), given)
        if isinstance(self._sources, ContinuedPrompts):
            readings = [self._noting_token(*pair) for pair in zip(items, readings, strict=True)]
        made = {
            "parts": parts, "batch_size": self.size, "shares_prefix": prompt.shares_prefix,
            "fused": self._writer.fused, "device": prompt.lm.device.type,
        }  # fmt: skip
        return Batch(items, readings, made)

    def _noting_token(self, item: Item, reading: Reading) -> Reading:
        """Note which token the model wrote where the vector was taken, or that its text had ended."""
        own = item.position - len(self._prompt.lm.token_ids(item.source_prompt))
        if own < 0:
            return reading
        token = self._sources[item.source_prompt].tokens[item.position]
        ended = not token and reading.message == NO_VECTOR
        return reading._replace(written=token, message=NOT_WRITTEN if ended else reading.message)


class _Writer:
    """Lets the model write from batches of vectors, of a size that is set once.

    Attributes:
        size: rows of a batch.
        fused: whether whole batches run compiled.
    """

    def __init__(
        self,
        prompt: PatchedPrompt,
        rows: int,
        batch_size: int | None,
        fused: bool | None,
        decoding: Decoding | None,
        inside: bool = False,
        stop: Callable[[], bool] | None = None,
        stop_at_item: bool = False,
    ):
        self._prompt, self._decoding, self._failures, self._stop = prompt, decoding, Failures(), stop
        self._stop_at_item = stop_at_item
        each = 2 if isinstance(decoding, Contrast) else 1  # rows of the model: a contrasted row has its null beside it
        self.size = batch_size or max(1, find_size(prompt, each * rows) // each)
        pays = rows >= FROM_ROWS and prompt.lm.device.type == "cpu"  # the only device on which it was measured
        self.fused = (pays if fused is None else fused) and not inside and prompt.fuse(each * self.size)
        if fused and not self.fused:
            why = "it is patched inside a block" if inside else prompt.why_not or "no shared prefix"
            raise InputError("fused", fused, f"this model can't be compiled here ({why})")

    def write(
        self, rows: int, given: Callable[[slice], tuple[Tensor, Sequence[Site], Sequence[int]]]
    ) -> tuple[list[Reading], int]:
        """Write from one batch.

        Args:
            given: part of the batch -> its amplified vectors (n, width), targets (n,) and seeds (n,).

        Returns:
            (rows,) readings, and in how many parts they could be made.
        """
        prompt, readings, parts = self._prompt, [], 0

        def work(part: slice) -> list[Reading]:
            vectors, targets, seeds = given(part)
            fused = self.fused and len(vectors) == self.size
            written = prompt.continue_from(
                vectors, targets, self._decoding, seeds, fused=fused, stop=self._stop, stop_at_item=self._stop_at_item
            )
            texts = decoded(prompt.lm, written.tokens)
            texts = list(map(prompt.target_prompt.up_to_stop, texts)) if self._stop_at_item else texts
            rho = _rho(vectors, [prompt.placeholder_states[target] for target in targets]).tolist()
            numbers = zip(rho, written.entropy, written.log_prob, strict=True)
            return [_reading(*read) for read in zip(texts, written.finite, numbers, strict=True)]

        with self._paced(rows):
            for _, result, error in run_with_bisection(work, rows, prompt.lm.device, self._failures):
                parts += 1
                readings += [_failure(error)] if error else result
        return readings, parts

    def _paced(self, rows: int) -> AbstractContextManager:
        """Choose the threads of a batch, where its result doesn't depend on them."""
        lm = self._prompt.lm
        if self.fused or lm.device.type != "cpu" or lm.dtype != "float32":  # what is compiled is so for its threads
            return nullcontext()
        return PACE.batch(rows * self._prompt.max_new_tokens, lm.name)


def _reading(text: str, finite: bool, numbers: tuple[float, float, float]) -> Reading:
    rho, entropy, log_prob = numbers
    if not finite:
        message = NO_VECTOR if math.isnan(rho) else STATUSES["nonfinite"]
        return Reading("", _rounded_rho(rho), status="nonfinite", message=message)
    return Reading(text, _rounded_rho(rho), round(entropy, DIGITS["entropy"]), round(log_prob, DIGITS["log_prob"]))


def _rho(vectors: Tensor, replaced: Sequence[Tensor]) -> Tensor:
    """Return ‖what is put there‖ / ‖the placeholder's own state there‖, the mean over placeholders: (rows,)."""
    if replaced[0].dim() == 1:
        return vectors.float().norm(dim=-1).cpu() / torch.stack([own.norm() for own in replaced])
    lengths = vectors.float().norm(dim=-1).cpu()
    lengths = lengths[:, None] if lengths.dim() == 1 else lengths
    return (lengths / torch.stack(list(replaced)).norm(dim=-1)).mean(-1)


def _rounded_rho(rho: float) -> float:
    return float(f"{rho:.{DIGITS['rho']}g}")


def _failure(error: Exception) -> Reading:
    status = "oom" if is_out_of_memory(error) else "error"
    return Reading("", status=status, message=STATUSES[status] or one_line(error))


def find_size(prompt: PatchedPrompt, rows: int) -> int:
    """Find a batch size for this many rows, by memory and by the time of a single pass over zero vectors."""
    lm = prompt.lm

    def one_pass(size: int) -> float:
        vectors, targets = torch.zeros(size, lm.width), [Site("hidden_state", 0)] * size
        return timed(lambda: prompt.continue_from(vectors, targets, max_new_tokens=1, fused=False), lm.device)

    return find_batch_size(rows, prompt.row_bytes, lm.device, one_pass)
