"""How figures are saved, and what is written into them."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers.figures.style import LARGEST_PNG, as_jpeg, one_line, save_figure, with_palette


@pytest.fixture
def figure():
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2, 3])
    yield figure
    plt.close(figure)


def test_the_same_figure_gives_the_same_bytes(figure, tmp_path):
    for name in ("first.png", "second.png"):
        save_figure(figure, tmp_path / "new" / name)
    for suffix, begin in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        first, second = ((tmp_path / "new" / name).with_suffix(suffix).read_bytes() for name in ("first", "second"))
        assert first == second and first.startswith(begin)
    assert b"/Type3" not in first, "a PDF's text can be edited"


def test_a_picture_fits_into_a_repository():
    """One of many colours that is too large with 256 of them."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 620, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, format="png")
    small = with_palette(png.getvalue())
    assert len(small) <= LARGEST_PNG < len(png.getvalue()) and Image.open(io.BytesIO(small)).size == (620, 500)


def test_a_jpeg_is_the_same_picture(figure, tmp_path):
    save_figure(figure, tmp_path / "figure.png")
    as_jpeg(tmp_path / "figure.png", tmp_path / "figure.jpg")
    pictures = [Image.open(tmp_path / name).convert("RGB") for name in ("figure.png", "figure.jpg")]
    assert pictures[0].size == pictures[1].size
    assert np.abs(np.asarray(pictures[0], int) - np.asarray(pictures[1], int)).mean() < 2


def test_readings_are_written_on_one_line():
    assert one_line("costs $5\n or more", 40) == "costs \\$5⏎ or more"
    assert one_line("abcdef", 4) == "abc…" and one_line("abcd", 4) == "abcd"
