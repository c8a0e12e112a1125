"""What a lens is fitted with, and where it is kept."""

from pathlib import Path

from .files import cache_folder, in_repository, results_folder, slug
from .settings import FilePath, Flag, ModelSettings, Positive, setting

FILE = "jacobian_lens.pt"


class LensSettings(ModelSettings):
    """The settings of `./runme.sh lens fit`."""

    prompts: Positive = setting(25, "texts that the lens is a mean over; more can be added later")
    tokens: Positive = setting(64, "length of a text; the first 16 tokens don't count")
    texts: FilePath = setting("", "a text file to cut into such texts; empty is what the model writes after names of entities")
    lens: FilePath = setting("", "where the lens goes; empty is the cache folder", changes_results=False)
    new: Flag = setting(False, "begin anew, beside what unfinished runs have left", changes_results=False)


def lens_file(model: str, lens: str = "", **source_options) -> Path:
    """Return where a model's lens is: the file that is named, one in data/<model>/, or else one in the cache folder."""
    if lens:
        return in_repository(lens)
    kept = results_folder(model, **source_options) / FILE
    return kept if kept.is_file() else cache_folder() / "lenses" / f"{slug(model, **source_options)}.pt"
