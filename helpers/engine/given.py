"""Given vectors as a plan's sources: read from their file, worked out from the model, or drawn."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .. import InputError
from ..models.load import LanguageModel
from ..models.vector_files import VectorFile, digest_of
from ..models.weights import weight_of
from ..words.components import GIVEN
from ..words.expressions import Expression, Mean, Sum, Term, Unit, Weight
from ..words.plans import Plan, locate
from ..words.vectors import FileSource, RandomLike, Vector, VectorPlan
from .activations import CapturedPrompts, ContinuedPrompts
from .vectors import as_seed

EXPRESSIONS_KEPT = 64  # (layers, width) each


def sources_of(lm: LanguageModel, plan: Plan) -> "Sources":
    """Return what a plan's vectors are read from, by source prompt."""
    kind, wanted = _wanted(plan, lm)
    return kind(lm, *wanted)


def fits(sources: "Sources | None", lm: LanguageModel, plan: Plan) -> bool:
    """Tell whether sources that were opened before are a plan's."""
    kind, wanted = _wanted(plan, lm)
    return isinstance(sources, kind) and sources.is_for(lm, *wanted)


def _wanted(plan: Plan, lm: LanguageModel) -> tuple[type, tuple]:
    if isinstance(plan, VectorPlan):
        return GivenVectors, (plan.vectors,)
    if plan.continue_tokens:
        return ContinuedPrompts, (plan.prompts, plan.continue_tokens)
    return CapturedPrompts, (plan.prompts, plan.inspected(lm))


class GivenVectors:
    """The vectors of a plan, by name, each read, worked out or drawn when it is asked for.

    Rows of a file are read one at a time from its map; expressions that were asked for last are kept.
    """

    def __init__(self, lm: LanguageModel, vectors: Sequence[Vector]):
        self._lm, self._vectors = lm, tuple(vectors)
        self._by_name = {vector.name: vector for vector in vectors}
        self._open = lru_cache(None)(VectorFile)
        self._worked_out = lru_cache(EXPRESSIONS_KEPT)(lambda expression: evaluate(lm, expression))
        for vector in vectors:  # a weight that the model doesn't have is refused before anything is read
            if isinstance(vector.origin, Expression):
                for weight in vector.origin.weights:
                    weight_of(lm, weight)

    def is_for(self, lm: LanguageModel, vectors: Sequence[Vector]) -> bool:
        """Tell whether these are exactly these vectors in this model."""
        return self._lm is lm and self._vectors == tuple(vectors)

    def __getitem__(self, name: str) -> "Given":
        return Given(self, self._by_name[name])

    def at(self, vector: Vector, layer: int) -> Tensor:
        """Return a vector, of a layer where that matters: (width,) float32 on the CPU; NaN of what comes out as zero.

        Raises:
            InputError: the file has other numbers than when the plan was made.
        """
        match vector.origin:
            case FileSource():
                [numbers] = self._open(vector.origin).read([vector.position])
                if digest_of(numbers) != vector.key:
                    raise InputError("vectors", vector.name, "the file has changed since its vectors were looked up")
                return numbers
            case Expression() as expression:
                numbers = self._worked_out(expression)[max(layer, 0)]
                return numbers if numbers.any() else numbers / 0
            case RandomLike(_, _, like):
                seed = as_seed(f"{vector.key} {layer}")
                drawn = torch.randn(self._lm.width, generator=torch.Generator().manual_seed(seed))
                return drawn * ((self.at(like, layer).norm() if like else 1.0) / drawn.norm())
        raise InputError("vectors", vector.name, "has no numbers")


Sources = CapturedPrompts | ContinuedPrompts | GivenVectors


class Given:
    """One given vector, as `vectors.vector_of` reads a prompt's activations: `given["vector"][layer, position]`."""

    def __init__(self, vectors: GivenVectors, vector: Vector):
        self._vectors, self._vector = vectors, vector

    def __getitem__(self, key: str | tuple[int, int]) -> "Given | Tensor":
        if isinstance(key, str):
            if key != GIVEN:
                raise InputError("component", key, f"a given vector is only {GIVEN}")
            return self
        return self._vectors.at(self._vector, key[0])


@torch.inference_mode()
def evaluate(lm: LanguageModel, expression: Expression) -> Tensor:
    """Work out an expression: (layers, width) float32 on the CPU; all rows are the same where no term is open.

    Sums are made in double precision. Prompts are run together, a pass's worth at a time, and only their vectors are
    kept; of a file's prompts only the sum.

    Raises:
        InputError: a token that isn't in a prompt, a weight that the model doesn't have.
    """
    prompts = list(dict.fromkeys(prompt for term in expression.terms for prompt in term.prompts))
    captured = CapturedPrompts(lm, prompts)

    def of_term(term: Term) -> Tensor:
        total = torch.zeros(lm.num_layers, lm.width, dtype=torch.float64)
        for prompt in term.prompts:
            vectors = captured[prompt][term.component or expression.component]
            total += vectors[:, locate("vectors", term.token, prompt, lm)].cpu().double()
        return total if term.layer is None else total[term.layer].expand_as(total)

    def value(node) -> Tensor:
        match node:
            case Term():
                return of_term(node) / len(node.prompts)
            case Weight():
                return weight_of(lm, node).double().expand(lm.num_layers, -1)
            case Sum(parts):
                return sum(factor * value(part) for factor, part in parts)
            case Mean(parts):
                counts = [len(part.prompts) if isinstance(part, Term) else 1 for part in parts]
                return sum(count * value(part) for count, part in zip(counts, parts, strict=True)) / sum(counts)
            case Unit(part):
                vectors = value(part)
                return vectors / vectors.norm(dim=-1, keepdim=True)

    return value(expression.node).float()
