"""How the page looks: calm, in the colours of the figures, with fonts that the reader's machine has."""

import gradio as gr

from ..words.methods import AMPLIFIED


def theme() -> gr.themes.Base:
    """Return a theme of system fonts (none is fetched) in the blue of Superscopes."""
    blue = gr.themes.Color(
        name="superscopes", c50="#eef6fb", c100="#d9ebf6", c200="#b3d7ee", c300="#7fbce1", c400="#3f9ad1",
        c500=AMPLIFIED.colour, c600="#0066a0", c700="#00557f", c800="#004163", c900="#002f48", c950="#001d2d",
    )  # fmt: skip
    return gr.themes.Base(
        primary_hue=blue,
        secondary_hue=blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    )
