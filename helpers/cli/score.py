"""`./runme.sh score`: stored readings, judged by another sentence model."""

from collections.abc import Mapping

from ..experiments import EXPERIMENTS
from ..judging.judge import Judge
from ..runs.readings import score_folder
from ..words.files import in_repository, shown
from ..words.grammar import read_path


def score_anew(folder: str, judge: str = "", out: str = "") -> int:
    """Score all readings of a folder with a judge and print where they are.

    Args:
        folder: of results; from where the user stands, or from the repository.
        judge: a folder of a sentence-transformers model; empty is the paper's judge.
        out: where the scored tables go; empty is runs/scored/<folder>-<judge>/.

    Returns:
        The exit code.

    Raises:
        InputError: no readings there, no such judge, or `out` can't be written.
    """
    source, other = in_repository(read_path(folder)), Judge(read_path(judge))
    target = in_repository(out or f"runs/scored/{source.name}-{other.name.lower()}")
    print(f"scoring {shown(source)}/ with {other.name} …", flush=True)
    for file in score_folder(source, other, target, gold_of):
        print(f"  {shown(file)}", flush=True)
    return 0


def gold_of(table: str, settings: Mapping[str, object]) -> Mapping[str, str]:
    """Return the descriptions by which an experiment judges its readings: {} for a table that is no experiment's.

    Args:
        settings: as the table's JSON has them.

    Raises:
        InputError: its prompts can't be read.
    """
    made = {name: one for one in EXPERIMENTS.values() for name in (one.TABLE, getattr(one, "READ_BESIDE", ""))}
    experiment = made.get(table) if table else None
    return experiment.gold(experiment.Settings.of(settings)) if experiment else {}
