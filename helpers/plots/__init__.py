"""Every figure, in one style, from finished tables: same colour = same method, the null always grey."""

from . import captions
from .controls import (
    categories_figure,
    components_figure,
    scoring_figure,
    sizes_figure,
    stability_figure,
    tries_figure,
)
from .layers import layer_success, verdict
from .paper import before_context_figure, guidance_ladder, story_picture
from .speech import speech_page
from .style import COLOURS, save_figure

__all__ = [
    "COLOURS",
    "before_context_figure",
    "captions",
    "categories_figure",
    "components_figure",
    "guidance_ladder",
    "layer_success",
    "save_figure",
    "scoring_figure",
    "sizes_figure",
    "speech_page",
    "stability_figure",
    "story_picture",
    "tries_figure",
    "verdict",
]
