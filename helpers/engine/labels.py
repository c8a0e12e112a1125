"""How probable labels are under vectors: "is it a band, a person, a country?", beside what other vectors would give."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import InputError
from ..models.load import LanguageModel
from ..words.components import Site
from ..words.labels import Continuation, check_labels, continuations
from ..words.prompts import LEAST_REFERENCES
from ..words.rows import Item
from ..words.target import TargetPrompt
from .activations import Activations
from .batches import Failures, check_batch_size, run_with_bisection
from .interpret import sites_of
from .prompt import PatchedPrompt
from .teacher import good_size
from .vectors import amplified_vectors


class LabelScores(NamedTuple):
    """How probable labels are under n vectors, and under r reference vectors of each.

    Attributes:
        continuations: (labels,) texts that were scored, as in ": band".
        log_odds: (n, labels) float32, Σ_t log D(c_t|αv) − Σ_t log D(c_t|nothing patched); NaN where a row failed.
        of_references: (n, r, labels) float32, the same under the references.
    """

    labels: tuple[str, ...]
    continuations: tuple[str, ...]
    log_odds: Tensor
    of_references: Tensor

    @property
    def probability(self) -> Tensor:
        """Return (n, labels), the softmax over the labels."""
        return self.log_odds.softmax(-1)

    @property
    def chance(self) -> Tensor:
        """Return (n, labels), the mean probability under the references; NaN where too few of them have one."""
        every = self.of_references.softmax(-1)
        enough = every.isfinite().all(-1).sum(-1, keepdim=True) >= LEAST_REFERENCES
        return torch.where(enough, every.nanmean(1), torch.nan)

    @property
    def as_probable(self) -> Tensor:
        """Return (n, labels), the share of references under which a label is at least as probable."""
        every, own = self.of_references.softmax(-1), self.probability[:, None]
        there = every.isfinite() & own.isfinite()
        return torch.where(there.any(1), ((every >= own) & there).sum(1) / there.sum(1), torch.nan)


def score_labels(
    lm: LanguageModel,
    vectors: Tensor,
    target_layers: int | Sequence[int],
    labels: Sequence[str],
    references: Tensor,
    target_prompt: TargetPrompt | None = None,
    batch_size: int | None = None,
) -> LabelScores:
    """Return the probability of each label under each vector, less its prior with nothing patched, and by chance.

    A label is scored as the target prompt goes on with it (`words.labels.continuations`): after the paper's, a list
    that ends with its placeholder, "band" is scored as ": band". A score is a sum over tokens, so that labels of one
    form and like length compare best.

    Args:
        vectors: (n, width), already amplified, as in `interpret`.
        target_layers: as in `interpret`.
        labels: 2 to 50, no two of them the same.
        references: (r, width), or (n, r, width) for each vector its own: the same component and layer of other
            prompts' last tokens, amplified as the vectors are; at least 10.
        batch_size: rows at a time; as many as give a pass of a good size if left out.

    Raises:
        InputError: shapes or layers that this model doesn't have; labels that are wrong, or have no tokens; too few
            references.
    """
    labels, targets = check_labels("labels", labels), sites_of(lm, vectors, target_layers, len(vectors))
    references = references[None] if references.dim() == 2 else references
    if references.dim() != 3 or references.shape[0] not in (1, len(vectors)) or references.shape[2] != lm.width:
        allowed = f"expected shape (r, {lm.width}), or ({len(vectors)}, r, {lm.width})"
        raise InputError("references", tuple(references.shape), allowed)
    references = references.expand(len(vectors), -1, -1)
    if (count := references.shape[1]) < LEAST_REFERENCES:
        raise InputError("references", f"{count} vectors", f"chance needs at least {LEAST_REFERENCES}")
    check_batch_size(batch_size)
    scorer = LabelScorer(lm, labels, target_prompt or TargetPrompt())
    of_references = scorer.log_odds(
        references.flatten(0, 1), [target for target in targets for _ in range(count)], batch_size
    )
    log_odds = scorer.log_odds(vectors, targets, batch_size)
    return scorer.scores(log_odds, of_references.view(len(vectors), count, -1))


class _Head(NamedTuple):
    """What labels have in common, up to their last tokens: one pass over it scores them all.

    Attributes:
        tokens: that are read.
        wanted: as in `PatchedPrompt.log_probs_along`.
        columns: number of a label -> where the log-probabilities of its tokens stand among all that are wanted.
    """

    tokens: list[int]
    wanted: list[list[int]]
    columns: dict[int, list[int]]


def _heads(labels: Sequence[Sequence[int]]) -> list[_Head]:
    """Return the fewest heads that score some labels, given as tokens; each label belongs to one of them."""
    heads: list[_Head] = []
    for number in sorted(range(len(labels)), key=lambda number: -len(labels[number])):
        *start, _ = labels[number]
        head = next((one for one in heads if one.tokens[: len(start)] == start), None)
        if head is None:
            heads.append(head := _Head(start, [[] for _ in labels[number]], {}))
        for wanted, token in zip(head.wanted, labels[number], strict=False):
            if token not in wanted:
                wanted.append(token)
        head.columns[number] = []
    for head in heads:
        places = [(step, token) for step, wanted in enumerate(head.wanted) for token in wanted]
        for number in head.columns:
            head.columns[number] += [places.index(place) for place in enumerate(labels[number])]
    return heads


class LabelScorer:
    """Labels, ready to be scored on one model under any vectors.

    Attributes:
        labels: as `check_labels` returns them.
        continuations: (labels,) what is scored.
        prompt: the target prompt, as the model has read it.
        null: (labels,) float32, the log-probability of each with nothing patched.

    Args:
        prompt: the same target prompt, if it was read before; one that is too short for the labels isn't used.
    """

    def __init__(
        self,
        lm: LanguageModel,
        labels: Sequence[str],
        target_prompt: TargetPrompt,
        prompt: PatchedPrompt | None = None,
    ):
        self.labels = tuple(labels)
        self.continuations: list[Continuation] = continuations(lm, target_prompt, labels)
        longest = max(len(one.tokens) for one in self.continuations)
        has_room = prompt and prompt.max_new_tokens >= longest
        if not (has_room and prompt.is_for(lm, target_prompt, prompt.max_new_tokens)):
            prompt = PatchedPrompt(lm, target_prompt, longest)
        self.prompt = prompt
        self._heads = _heads([one.tokens for one in self.continuations])
        nothing = Site("hidden_state", 0)  # the placeholder's own state, wherever it is put, changes nothing
        self.null = self._totals(prompt.placeholder_states[nothing][None], [nothing], None)[0]

    def log_odds(self, vectors: Tensor, targets: Sequence[Site], batch_size: int | None = None) -> Tensor:
        """Return (n, labels) float32: Σ_t log D(c_t|vector) − Σ_t log D(c_t|nothing patched).

        Args:
            vectors: (n, width), already amplified.
            targets: (n,) where each is patched.
        """
        return self._totals(vectors, targets, batch_size) - self.null

    def scores(self, log_odds: Tensor, of_references: Tensor) -> LabelScores:
        """Return what `log_odds` gave for n vectors, (n, labels), and for their references, (n, r, labels)."""
        return LabelScores(self.labels, tuple(one.text for one in self.continuations), log_odds, of_references)

    def _totals(self, vectors: Tensor, targets: Sequence[Site], batch_size: int | None) -> Tensor:
        """Return (n, labels), the log-probability of each label under each vector; NaN where a row failed."""
        totals, lm, failures = torch.full((len(vectors), len(self.labels)), torch.nan), self.prompt.lm, Failures()
        for head in self._heads:
            size = batch_size or good_size(lm, len(head.tokens) + 1)
            for start in range(0, len(vectors), size):
                batch = range(start, min(start + size, len(vectors)))

                def work(part: slice, head=head, batch=batch) -> Tensor:
                    rows = batch[part]
                    given, of = vectors[rows.start : rows.stop], targets[rows.start : rows.stop]
                    return self.prompt.log_probs_along(head.tokens, head.wanted, given, of)

                for part, found, error in run_with_bisection(work, len(batch), lm.device, failures):
                    rows = batch[part]
                    for label, columns in head.columns.items():
                        if not error:
                            totals[rows.start : rows.stop, label] = found[:, columns].sum(1)
        return totals


def reference_vectors(item: Item, references: Mapping[str, Activations], replaced: Mapping[Site, Tensor]) -> Tensor:
    """Return an item's references: the same component, layer and α of other prompts' last tokens, (r, width) float32.

    Args:
        references: of `references.last_tokens`.
        replaced: as in `amplified_vectors`.
    """
    items = [item._replace(source_prompt=prompt, position=0) for prompt in references]
    return amplified_vectors(items, references, replaced)
