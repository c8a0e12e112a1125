"""One style for all figures: same colour = same method, the null always grey; and how a figure is saved."""

import io
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ..results import write_atomically

COLOURS = {"Patchscopes": "#D55E00", "Superscopes": "#0072B2"}  # told apart in every common colour blindness
MARKERS = {"Patchscopes": "s", "Superscopes": "o"}
METHODS = {"Patchscopes": "Patchscopes (α = 1)", "Superscopes": "Superscopes (best of the amplified)"}
NULL_COLOUR = "#8a8a8a"
LARGEST_PNG = 300 << 10  # bytes
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write PNG and PDF beside each other; the same figure gives the same bytes."""
    path, png = Path(path), io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    with write_atomically(path.with_suffix(".png"), "wb") as file:
        file.write(with_palette(png.getvalue()))
    with write_atomically(path.with_suffix(".pdf"), "wb") as file:
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})


def with_palette(png: bytes) -> bytes:
    """A PNG with 256 colours, a third of the size; with 64 if it is too large for a repository even so."""
    for colours in (256, 64):
        small = io.BytesIO()
        image = Image.open(io.BytesIO(png)).convert("RGB")
        image.quantize(colours, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
        if small.tell() <= LARGEST_PNG:
            break
    return small.getvalue()


def as_jpeg(picture: Path, path: Path) -> None:
    """A PNG as a JPEG."""
    with write_atomically(path, "wb") as file:
        Image.open(picture).convert("RGB").save(file, format="jpeg", quality=92)


def shown(text: str, length: int) -> str:
    """A text on one line, cut to a length; matplotlib takes no $ for mathematics."""
    text = text.replace("\n", "⏎").replace("$", r"\$")
    return text if len(text) <= length else text[: length - 1] + "…"
