"""What else a model can tell of its readings, at many times the cost: beside others' vectors, and written anew.

Each number costs a dozen passes or more of a reading, where those of `evidence` cost two. Like them, none sees the words
of the source prompt, a description or a score.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import InputError
from ..engine.activations import Activations
from ..engine.interpret import interpret
from ..engine.references import References
from ..engine.vectors import amplified_vectors, as_seed
from ..models.load import LanguageModel
from ..words.decoding import Sampling
from ..words.prompts import LEAST_REFERENCES
from ..words.rows import Item
from ..words.target import TargetPrompt
from .evidence import Asked, Witness, places_of

MORE_EVIDENCE = {  # column -> what it is
    "pmi_mean": "mean log-probability of the first item's tokens, less what it is under the mean of other prompts' vectors, "
    "amplified in the same way",
    "specificity": f"log-probability of the first item, less the logarithm of its mean probability under {LEAST_REFERENCES} "
    "other prompts' vectors, one by one, amplified in the same way",
    "consistency": "share of the commonest first item among 8 readings sampled at temperature 1",
}
SAMPLES = 8  # of a reading
AS_IT_IS = Sampling(temperature=1.0, top_p=1.0)  # the model's own distribution
ROWS = 64  # that are sampled at a time
MEAN = ""  # no prompt: whose vectors are the references' means


class MoreWitness(Witness):
    """Tells what costs more of a model's readings: MORE_EVIDENCE.

    Args:
        references, target_prompt: as of `Witness`.
        max_new_tokens: length of a reading.

    Raises:
        InputError: as `Witness`, or a target prompt whose placeholders get a vector each.
    """

    columns = MORE_EVIDENCE

    def __init__(
        self,
        lm: LanguageModel,
        references: Sequence[str] | References,
        target_prompt: TargetPrompt | None = None,
        max_new_tokens: int = 10,
    ):
        super().__init__(lm, references, target_prompt)
        if self.target_prompt.span:
            why = "other prompts' last tokens can't stand in for the several tokens of a span"
            raise InputError("target_prompt", self.target_prompt.name, why)
        self._max_new_tokens, self._known, self._means = max_new_tokens, {}, {}
        self._drawn = sorted(self.references.prompts, key=lambda prompt: as_seed(f"reference {prompt}"))

    def _tell(self, asked: Asked) -> dict[str, np.ndarray]:
        tokens = self._scores(asked.amplified, asked.items, asked.written).log_probs
        own, lengths = np.array([found.sum().item() for found in tokens]), np.array([len(found) for found in tokens])
        wanted = [(number, source) for number, item in enumerate(asked.items) for source in [MEAN, *self._others(item)]]
        beside = self._totals([(asked.items[number], source, asked.written[number]) for number, source in wanted])
        beside = beside.reshape(len(asked.items), 1 + LEAST_REFERENCES)
        by_others = np.logaddexp.reduce(beside[:, 1:], axis=1) - math.log(LEAST_REFERENCES)
        return {
            "pmi_mean": (own - beside[:, 0]) / lengths,
            "specificity": own - by_others,
            "consistency": self._consistency(asked),
        }

    def _others(self, item: Item) -> list[str]:
        """Return the references, drawn once for all readings, that an item's vector is compared with one by one."""
        return [prompt for prompt in self._drawn if prompt != item.source_prompt][:LEAST_REFERENCES]

    def _totals(self, wanted: Sequence[tuple[Item, str, str]]) -> np.ndarray:
        """Return the log-probability of texts under others' vectors in the place of items', each once: (n,).

        Args:
            wanted: (n,) an item, the reference (or MEAN) whose vector takes the place of its own, and a text.
        """
        new: dict[tuple, tuple[Item, str]] = {}
        keys = [self._key(*one) for one in wanted]
        for key, (item, source, text) in zip(keys, wanted, strict=True):
            if key not in self._known and key not in new:
                new[key] = item._replace(source_prompt=source, position=0), text
        if new:
            own = [self._means_for(without) if source == MEAN else self.references.last for source, without, *_ in new]
            vectors = [
                amplified_vectors([item], of, self._replaced)[0] for of, (item, _) in zip(own, new.values(), strict=True)
            ]
            items, texts = zip(*new.values(), strict=True)
            scores = self._scores(torch.stack(vectors), items, texts)
            self._known |= {key: found.sum().item() for key, found in zip(new, scores.log_probs, strict=True)}
        return np.array([self._known[key] for key in keys])

    def _key(self, item: Item, source: str, text: str) -> tuple:
        """Name what a log-probability depends on; the mean depends on which prompt it leaves out."""
        without = item.source_prompt if source == MEAN and item.source_prompt in self.references.prompts else MEAN
        return source, without, item.component, item.layer, item.amplifier, item.target, item.seed, text

    def _means_for(self, without: str) -> dict[str, Activations]:
        """Return the references' mean activations, without one of them, as those of the prompt MEAN."""
        if without not in self._means:
            some = [at for prompt, at in self.references.last.items() if prompt != without]

            def mean(name: str) -> Tensor:
                return torch.stack([at[name] for at in some]).double().mean(0).float()

            names = "hidden_state", "mlp_output", "attention_output"
            self._means[without] = {MEAN: Activations([MEAN], *map(mean, names))}
        return self._means[without]

    def _consistency(self, asked: Asked) -> np.ndarray:
        """Return the share of the commonest first item among samples of each reading, (n,)."""
        vectors = asked.amplified.repeat_interleave(SAMPLES, 0)
        places = places_of([item for item in asked.items for _ in range(SAMPLES)])
        seeds = [as_seed(f"sample {number} of {item.id}") for item in asked.items for number in range(SAMPLES)]
        shared = {"target_prompt": self.target_prompt, "max_new_tokens": self._max_new_tokens, "batch_size": ROWS}
        texts = interpret(self.lm, vectors, decoding=AS_IT_IS, seeds=seeds, fused=False, **shared, **places)
        items = [self.target_prompt.first_item(text) for text in texts]
        each = [items[start : start + SAMPLES] for start in range(0, len(items), SAMPLES)]
        return np.array([max(Counter(filter(None, some)).values(), default=0) / SAMPLES for some in each])
