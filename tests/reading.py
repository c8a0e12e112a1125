"""Read a plan in the tests, where pairs of an item and its reading are all that matters."""

from helpers.engine.interpret import run
from helpers.words.plans import Plan, make_plan


def read(lm, prompts, *settings, batch_size=None, **more):
    """Return (item, reading) pairs of a plan, or of the plan that `make_plan` makes of these arguments."""
    plan = prompts if isinstance(prompts, Plan) else make_plan(prompts, *settings, **more)
    return [pair for batch in run(lm, plan, batch_size) for pair in zip(batch.items, batch.readings, strict=True)]


def texts_of(lm, *settings, **more):
    """Return what the model wrote, in the plan's order."""
    return [reading.result for _, reading in read(lm, *settings, **more)]
