"""A session: one model and one judge in memory, for as many plans and experiments as there are."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from .. import InputError
from ..words.plans import Plan
from ..words.rows import Identity, Item
from ..words.settings import ModelSettings
from .loop import Source

if TYPE_CHECKING:
    from ..engine.given import Sources
    from ..engine.interpret import Batch
    from ..engine.prompt import PatchedPrompt
    from ..engine.references import References
    from ..judging.judge import Judge
    from ..models.load import LanguageModel, ModelCard


class Session:
    """One model and one judge, each loaded when it is first needed, and what is read once for many plans.

    It reads plans in this process (`loop.Source`), or has Dask workers read them (`source`). As a context manager, it
    keeps the workers from one experiment to the next.

    Args:
        settings: which model.
        judge: the one that `settings.judge` and `settings.threshold` mean, if left out.
    """

    def __init__(self, settings: ModelSettings, judge: "Judge | None" = None):
        self.settings, self._judge = settings, judge
        self._prompt, self._captured, self._references = None, None, None
        self._kept: ExitStack | None = None
        self._workers: Source | None = None

    def __enter__(self) -> "Session":
        self._kept = ExitStack()
        return self

    def __exit__(self, *error) -> None:
        kept, self._kept, self._workers = self._kept, None, None
        kept.__exit__(*error)

    @cached_property
    def lm(self) -> "LanguageModel":
        """Load the model."""
        from ..models.load import load_model

        settings = self.settings
        return load_model(settings.model, settings.dtype, settings.device, **settings.source_options.changed)

    @cached_property
    def card(self) -> "ModelCard":
        """Read what is known of the model without its weights."""
        from ..models.load import read_model

        if self.has_weights:
            return self.lm
        return read_model(self.settings.model, **self.settings.source_options.changed)

    @cached_property
    def judge(self) -> "Judge":
        """Make the judge; its sentence model is loaded when it first judges."""
        from ..judging.judge import THRESHOLD, Judge

        folder, threshold = getattr(self.settings, "judge", ""), getattr(self.settings, "threshold", THRESHOLD)
        return self._judge or Judge(folder, threshold)

    @property
    def has_judge(self) -> bool:
        """Tell whether it was given a judge, whatever the settings say."""
        return self._judge is not None

    @property
    def has_weights(self) -> bool:
        """Tell whether the model is loaded."""
        return "lm" in self.__dict__

    @property
    def identity(self) -> Identity:
        """Return what identifies the model; loads it."""
        return self.lm.identity

    def expected_identity(self, attention: str) -> Identity:
        """Return what will identify the model, without loading it.

        Args:
            attention: its attention implementation, as an earlier run noted it; known for sure once it is loaded.
        """
        if self.has_weights:
            return self.identity
        source = self.card.source
        source.fetch_weights()
        return Identity(self.card.slug, source.fingerprint(), self.settings.dtype, attention)

    def prompt_for(self, plan: Plan) -> "PatchedPrompt":
        """Return a plan's target prompt as the model has read it; read again only when it is another one."""
        from ..engine.prompt import PatchedPrompt

        wanted = self.lm, plan.target_prompt, plan.max_new_tokens
        if not (self._prompt and self._prompt.is_for(*wanted)):
            self._prompt = None  # freed before the next one is read
            self._prompt = PatchedPrompt(*wanted)
        return self._prompt

    def forget_large(self, most: int) -> None:
        """Forget the latest target prompt if its keys and values take more than so many bytes."""
        if self._prompt and self._prompt.bytes > most:
            self._prompt = None

    def sources_for(self, plan: Plan) -> "Sources":
        """Return what a plan's vectors are read from; made again only when they are others."""
        from ..engine.given import fits, sources_of

        if not fits(self._captured, self.lm, plan):
            self._captured = None
            self._captured = sources_of(self.lm, plan)
        return self._captured

    def references_for(self, plan: Plan) -> "References | None":
        """Return the means of a plan's references, if it has some; made again only when the references are others."""
        from ..engine.references import References

        if plan.references and not (self._references and self._references.is_for(self.lm, plan.references)):
            self._references = None
            self._references = References(self.lm, plan.references)
        return self._references if plan.references else None

    def shared_by(self, plan: Plan) -> dict:
        """Return what `engine.interpret.Reader` takes of what was read before for other plans."""
        return {
            "prompt": self.prompt_for(plan), "sources": self.sources_for(plan), "references": self.references_for(plan)
        }  # fmt: skip

    def batches(
        self, plan: Plan, items: list[Item], batch_size: int | None, done: Collection[str]
    ) -> Iterator[list["Batch"]]:
        """Read a plan in this process; see `loop.Source`."""
        from ..engine.interpret import run

        made = run(self.lm, plan, batch_size, done=done, items=items, **self.shared_by(plan))
        return ([batch] for batch in made)

    def describe(self, *plans: Plan) -> dict:
        """Return what makes the results; see `sweep.describe`."""
        from .sweep import describe

        return describe(self.lm, *plans)

    @contextmanager
    def source(self, workers: int | str) -> Iterator[Source]:
        """Yield who reads: this session, or Dask workers with the same model.

        Args:
            workers: 0; how many processes of this machine; or a scheduler's address.
        """
        if not workers:
            yield self
            return
        try:
            from .cluster import Workers
        except ImportError:
            raise InputError("workers", workers, "needs Dask: pip install -r requirements-cluster.txt") from None
        if self._kept is None:
            with Workers(self.settings, self.card, workers) as started:
                yield started
            return
        if self._workers is None:
            self._workers = self._kept.enter_context(Workers(self.settings, self.card, workers))
        yield self._workers
