"""The report of a request: a page that stands alone, without scripts."""

import json
from html import escape

from ..words.methods import CHOICES
from .cells import cells_of
from .jobs import Job
from .parts import quoted
from .view import STYLE, ladder, table


def report(job: Job, python: str) -> str:
    """Return a page with everything that was read, and what made it.

    Args:
        python: the lines that give the same rows.
    """
    settings, parts = job.settings, []
    for position in job.rows["position"].unique().tolist():
        parts.append(f"<h2>Token {quoted(job.tokens[position])}</h2>")
        parts += [
            f"<h3>{words.capitalize()}</h3>{table(job, position, choice, opens=False)}"
            for choice, (_, words) in CHOICES.items()
        ]
        parts += [ladder(job, cell, tries) for cell, tries in cells_of(job, position).items()]
    about = escape(json.dumps(job.rows.attrs, indent=2, ensure_ascii=False, default=str))
    stopped = "" if job.state == "done" else f", stopped; {len(job.items):,} were asked for"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Superscopes: {escape(settings.prompt[:80])}</title><style>{STYLE}</style></head>"
        f'<body class="report"><h1>{escape(settings.prompt)}</h1><p>{len(job.rows):,} readings of '
        f"{escape(settings.model)}{stopped}. Score: similarity to the prompt ({escape(job.rows.attrs['judge']['name'])}); "
        f"chance: the same readings against other prompts.</p>{''.join(parts)}"
        f"<h2>The same in Python</h2><pre>{escape(python)}</pre><h2>What made it</h2><pre>{about}</pre></body></html>"
    )
