"""One style for all figures, and how a figure is saved. A method looks the same everywhere; chance is always grey."""

import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from ..words.files import write_atomically

INK = "#1f2933"  # of text and of what belongs to no method
PAPER = "#f6f7f9"  # behind boxes
NULL_COLOUR = "#8a8a8a"  # of chance, and of notes
LINE = "#d5dae1"  # of thin lines that separate
PAPER = "#f6f7f9"  # a light ground
LARGEST_PNG = 300 << 10  # bytes
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text that other programs can edit
}


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write PNG and PDF beside each other; the same figure gives the same bytes."""
    path, png = Path(path), io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        with write_atomically(path.with_suffix(".png"), "wb") as file:
            file.write(with_palette(png.getvalue()))
        with write_atomically(path.with_suffix(".pdf"), "wb") as file:
            figure.savefig(file, format="pdf", metadata={"CreationDate": None})


def with_palette(png: bytes) -> bytes:
    """Return a PNG with 256 colours, a third of the size; with 64 if it is too large for a repository even so."""
    for colours in (256, 64):
        small = io.BytesIO()
        image = Image.open(io.BytesIO(png)).convert("RGB")
        image.quantize(colours, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
        if small.tell() <= LARGEST_PNG:
            break
    return small.getvalue()


def as_jpeg(picture: Path, path: Path) -> None:
    """Write a PNG as a JPEG."""
    with write_atomically(path, "wb") as file:
        Image.open(picture).convert("RGB").save(file, format="jpeg", quality=92)


def one_line(text: str, length: int) -> str:
    """Return a text on one line, cut to a length; a $ is escaped, since matplotlib would set mathematics."""
    text = text.replace("\n", "⏎").replace("$", r"\$")
    return text if len(text) <= length else text[: length - 1] + "…"
