"""How readings look: texts never become markup, the best stands beside chance, and every method has its column."""

import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from serving import PROMPT, served, usual_settings

from helpers import capture
from helpers.app import view
from helpers.app.cells import Best, Cell, Try, blind_of, cells_of, count_blind, count_similar, similar_of
from helpers.app.desk import Desk
from helpers.app.jobs import Job
from helpers.app.lens import Lenses, Told
from helpers.app.report import report
from helpers.app.scores import Scored
from helpers.app.weighing import UNWEIGHED, Weighed
from helpers.lenses.jacobian import CHECKED_TEXT, Lens, jacobians_of, load_lens
from helpers.lenses.logit import vocabulary
from helpers.words.methods import AMPLIFIED, CHOICES, METHODS, PLAIN
from helpers.words.rows import Reading

pytestmark = pytest.mark.usefixtures("no_runs")


@pytest.fixture(scope="module")
def desk(tiny_folder, no_runs):
    desk = Desk(str(tiny_folder)).open()
    yield desk
    desk.close()


@pytest.fixture(scope="module")
def job(desk, tiny_folder):
    return served(desk, usual_settings(tiny_folder))


def with_readings(job: Job, score=None, **changes) -> Job:
    """Return a request with other readings."""
    readings = {}
    for id, scored in job.readings.items():
        scored = scored._replace(reading=scored.reading._replace(**changes))
        readings[id] = scored if score is None else scored._replace(score=score)
    return replace(job, readings=readings)


def scored(score: float, *chance: float, result: str = ": a band") -> Scored:
    return Scored(Reading(result, 1.0), score, np.array(chance, np.float32))


def tries(*readings: Scored) -> list[Try]:
    return [Try(3.0 * (i + 1), reading, (AMPLIFIED.name,)) for i, reading in enumerate(readings)]


def test_text_is_never_markup(desk, job):
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">${7*7}{{value}}'
    asked = served(desk, job.settings.replace(prompt=evil[:40], tokens=(-1,)))
    bad = with_readings(asked, result=evil)
    pages = [view.table(bad, asked.positions[0], choice) for choice in CHOICES] + [view.heat_map(bad), view.heading(bad), report(bad, evil)]
    pages += [view.ladder(bad, cell) for cell in cells_of(bad)] + [view.error(evil)]
    for page in pages:
        assert "<script" not in page and "<img" not in page and 'onerror="' not in page
    assert "&lt;script&gt;" in pages[-1]


def test_the_speed_is_shown_when_it_is_known(desk, job):
    reading = replace(job, state="reading", started=1.0, read=0, seconds=0.0)
    assert f"of {len(job.items)} readings · estimating" in view.status(desk, reading)
    assert " · 4 per second · 0 s left" in view.status(desk, replace(reading, read=8, seconds=2.0))
    assert " · 0.2 per second · 0 s left" in view.status(desk, replace(reading, read=1, seconds=5.0))


def test_a_failed_reading_says_why(desk, job):
    bad = with_readings(job, np.nan, status="nonfinite", message="<b>too</b> large")
    assert all("&lt;b&gt;too&lt;/b&gt; large" in view.table(bad, 5, choice) for choice in CHOICES)
    assert f"{len(job.items)} failed" in view.status(desk, bad)
    ladder = view.ladder(bad, Cell("mlp_output", 1, 5))
    assert ladder.count("&lt;b&gt;too") == 3 and "score nan" not in ladder and 'class="scale"' not in ladder, "no score is on a line"


def test_best_and_chance_have_the_same_number_of_tries(job):
    first, second = scored(0.5, 0.1, 0.9), scored(0.7, 0.8, 0.2)
    best = Best(job, tries(first, second))
    assert (best.amplifier, best.tries, best.mark) == (6, 2, "lucky")  # against others, two tries give 0.8 and 0.9
    assert best.chance == pytest.approx((0.8, 0.9))
    assert Best(job, tries(first._replace(chance=np.array([0.1, 0.2])))).mark == "hit"
    assert Best(job, tries(first._replace(score=0.2))).mark == ""
    assert Best(job, tries(first._replace(score=np.nan), second)).amplifier == 6


def test_words_of_the_prompt_are_marked(job):
    cell = view.table(with_readings(job, result=": the Wales of England, Diana: princess"), 5)
    marked = set(re.findall(r"<mark[^>]*>(\w+)</mark>", cell)) - {"word"}
    assert marked == {"Wales", "Diana", "princess"}  # not "the" and "of"


def test_an_echo_is_no_success(job):
    def mark(result):
        return Best(job, tries(scored(0.9, *[0.0] * 47, result=result))).mark

    assert mark(": Diana of Wales, x") == mark(": the, United Kingdom") == "echo"
    assert mark(": British princess, x") == mark(", United Kingdom") == mark("") == "hit"  # an empty item repeats nothing


def test_the_ladder_has_what_the_lenses_say(job, tiny, tmp_path, monkeypatch):
    cell = list(cells_of(job))[-4]
    vector = capture(tiny, PROMPT)[cell.component][cell.layer, cell.position][None]

    def top(vectors) -> tuple[str, ...]:
        return tuple(token for token, _ in vocabulary(tiny, vectors, 5)[0])

    assert len(job.told) == len(cells_of(job)) and job.told[tuple(cell)] == Told(top(vector))
    shown = view.ladder(job, cell)
    assert shown.count("<q>") == 5 and "Jacobian" not in shown
    assert all(f"<q>{view.shown(token.strip() or token)}</q>" in shown for token in top(vector))
    made = Lens(jacobians_of(tiny, tiny.token_ids(CHECKED_TEXT)[:40]), 1, {})
    made.save(tmp_path / "lens.pt")
    monkeypatch.setattr("helpers.lenses.jacobian.lens_file", lambda *_, **__: tmp_path / "lens.pt")
    lenses, kept = Lenses(tiny), load_lens(tmp_path / "lens.pt")
    both = lenses.of([tuple(cell)], capture(tiny, PROMPT))
    assert both[tuple(cell)] == Told(top(vector), top(kept.carried(vector, cell.layer, 2)))
    assert "Jacobian lens" in view.ladder(replace(job, told=both), cell)


def test_counts_stand_beside_chance(job):
    items = [item for item in job.items if item.component == "mlp_output"][:6]  # layers 0, 1; amplifiers 1, 3, 9
    readings = [scored(0.5, 0, 0.4), scored(0.1, 0, 0), scored(0.4, 0, 0)]
    readings += [scored(0.1, 0.4, 0.4), scored(0.2, 0, 0.4), scored(np.nan, 0.4, 0)]
    few = replace(job, items=items, readings={item.id: one for item, one in zip(items, readings, strict=True)})
    plain, amplified = count_similar(few, cells_of(few))
    assert (plain.method, plain.cells, plain.similar, plain.by_chance.tolist()) == (PLAIN, 2, 1, [1, 2])
    assert (amplified.method, amplified.cells, amplified.similar, amplified.by_chance.tolist()) == (AMPLIFIED, 2, 1, [1, 1])
    words = view.counts(few, cells_of(few))
    assert "1 of 2 plain (by chance 1.5, 1 to 2)" in words and "1 of 2 amplified (by chance 1.0, 1 to 1)" in words
    assert "the paper's other 2 prompts" in words


WORTH = [
    (Weighed(0.71, 0.9, True, "believed"), "believed", "71 %"),
    (Weighed(0.12, 0.9, True, "no reading to believe"), "nothing", "no reading to believe · 12 %"),
    (Weighed(np.nan, 0.83, True, "uncalibrated"), "uncalibrated", "uncalibrated · rank 0.83"),
    (Weighed(np.nan, np.nan, True, "no reading to believe"), "nothing", "no reading to believe"),
    (Weighed(0.9999, 1.0, True, "believed"), "believed", "99 %"),
]


@pytest.mark.parametrize("worth, kind, words", WORTH)
def test_the_first_table_shows_one_reading_of_each_vector_with_its_worth(job, worth, kind, words):
    """The second of each vector's three; the most similar one is another."""
    weighed = {item.id: worth if number % 3 == 1 else UNWEIGHED for number, item in enumerate(job.items)}
    told = replace(job, weighed=weighed)
    page = view.table(told, 5)
    assert page.count(f'<td class="blind {kind}"') == 9 == page.count(f'<span class="numbers">{words} · α 3</span>')
    assert "● " not in page and "best of" not in page, "nothing here has looked at the answer"
    cell = Cell("mlp_output", 1, 5)
    ladder = view.ladder(told, cell)
    [blind] = [row for row in ladder.split("<tr") if "chosen without the prompt</span>" in row]
    [similar] = [row for row in ladder.split("<tr") if "chosen by similarity to the prompt</span>" in row]
    assert 'scope="row">3<' in blind and f"Chosen without the prompt: α = 3, <b>{words}</b>" in ladder
    assert f'scope="row">{similar_of(cells_of(told)[cell]).amplifier:g}<' in similar


def test_what_is_shown_until_all_are_weighed_is_what_began_most_surely(job):
    for number, (cell, tries) in enumerate(cells_of(replace(job, weighed={})).items()):
        surest = min(tries, key=lambda one: one.scored.reading.entropy)
        assert blind_of(tries) is surest and number < 9, cell
    page = view.table(replace(job, weighed={}, state="reading"), 5)
    assert "For now, of each vector the one that began most surely: how far each can be believed follows" in page
    assert page.count('<td class="blind waiting"') == 9 and "uncalibrated" not in page


def test_the_blind_reading_has_one_try_and_so_has_its_chance(job):
    items = [item for item in job.items if item.component == "mlp_output"][:6]  # layers 0, 1; amplifiers 1, 3, 9
    readings = [scored(0.5, 0, 0.4), scored(0.1, 0, 0), scored(0.4, 0, 0)]
    readings += [scored(0.1, 0.4, 0.4), scored(0.2, 0, 0.4), scored(0.9, 0.4, 0)]
    weighed = {item.id: Weighed(0.6, 1, number in (0, 4), "believed") for number, item in enumerate(items)}
    few = replace(job, items=items, readings={item.id: one for item, one in zip(items, readings, strict=True)}, weighed=weighed)
    found = count_blind(few, cells_of(few))
    assert (found.cells, found.similar, found.by_chance.tolist()) == (2, 1, [0, 2])
    assert "Of 2 vectors 2 believed. Vectors with a reading above 0.3: 1 of 2 blind (by chance 1.0, 0 to 2)" in view.table(few, 5)


def test_a_new_method_has_its_column_and_its_count(job, monkeypatch):
    strongest = AMPLIFIED._replace(
        name="Strongest", adjective="strongest", choose=lambda rows: rows["amplification value"] == 9
    )
    monkeypatch.setitem(METHODS, strongest.name, strongest)
    page = view.table(job, 5, "similarity")
    heads = re.findall(r'<th scope="col" class="(\w+)">([^<]*)</th>', page)
    assert heads[:3] == [("plain", "α = 1"), ("amplified", "best of 2 amplified"), ("strongest", "strongest")]
    assert "of 9 strongest (by chance" in page and len(re.findall('<td class="strongest', page)) == 9


def test_columns_are_those_of_what_was_asked(desk, job):
    amplified = served(desk, job.settings.replace(amplifiers="3", components=("hidden_state",)))
    assert re.findall(r'<th scope="col" class="(\w+)">([^<]*)</th>', view.table(amplified, 5, "similarity")) == [
        ("amplified", "amplified")
    ]
    everything = view.table(job, 5, "similarity", show_all=True)
    assert everything.count('<span class="reading') == len(job.items)
    assert view.table(job, 5, "similarity").count('<span class="reading') == len(job.items) * 2 // 3
    assert view.table(job, 5).count('<span class="reading') == len(job.items) // 3, "one of each vector"


def test_cells_have_names(job):
    for cell in cells_of(job):
        assert Cell.parse(str(cell)) == cell
    assert view.ladder(job, Cell("mlp_output", 2, 5)).count("<tr") == 1 + 3 and not view.ladder(job, Cell("x", 2, 5))


@pytest.mark.parametrize("name", ["a|1", "a|1|2|3", "../x|1|2", "a|-1|2", "a|1|9999999", "", None, 5, {"a": 1}])
def test_a_cell_that_the_page_did_not_name_is_none(name):
    assert Cell.parse(name) is None


def test_the_map_has_a_square_for_each_layer_and_token(job):
    page = view.heat_map(job)
    assert page.count("<td><button") == 9 and page.count('<span class="missing"') == 9 * 5
    assert page.count('tabindex="0" class') == 3  # the first square of each map is reached by the tab key
    empty = view.heat_map(replace(job, readings={}, weighed={}, state="reading"))
    assert "1 mean rank among the vector's readings; of the reading chosen" in empty and "<td><button" not in empty


def test_the_map_is_coloured_by_what_the_table_shows(job):
    """By probability where something was fitted, by rank where not; by similarity when that is chosen."""
    sure = replace(job, weighed={
        item.id: Weighed(0.25 if item.component == "mlp_output" else np.nan, 0.75, item.amplifier == 3, "uncalibrated")
        for item in job.items
    })  # fmt: skip
    page, cell = view.heat_map(sure), Cell("mlp_output", 1, 5)
    shade = dict(re.findall(r'<td><button[^>]*--shade:([\d.]+)" data-cell="([^"]*)"', page)[i][::-1] for i in range(9))
    assert {name: float(value) for name, value in shade.items()} == {
        str(cell): 0.25 if cell.component == "mlp_output" else 0.75 for cell in cells_of(sure)
    }
    assert "mean rank among the vector's readings; of the reading chosen without the prompt" in page
    assert "similarity" not in page
    [chosen] = [one for one in cells_of(sure)[cell] if one.amplifier == 3]
    first = sure.first_item(chosen.scored)
    assert f"<span>{escape(first)}</span></button>" in page and "The strongest" in page
    similar = view.heat_map(sure, "similarity")
    best = similar_of(cells_of(sure)[cell]) if cell in cells_of(sure) else None
    assert best and "0.8 similarity of the best reading to the prompt" in similar and "mean rank" not in similar
    shades = dict(re.findall(r'<td><button[^>]*--shade:([\d.]+)" data-cell="([^"]*)"', similar)[i][::-1] for i in range(9))
    for one, tries in cells_of(sure).items():
        score = max(each.scored.score for each in tries)
        assert float(shades[str(one)]) == pytest.approx(min(max(score, 0) / 0.8, 1), abs=0.006)


def test_in_a_long_prompt_the_squares_have_no_words_but_a_list_has(job):
    long = replace(job, tokens=job.tokens + ["more"] * 10)
    page = view.heat_map(long)
    assert "worded" in view.heat_map(job) and "worded" not in page
    assert "<td><button" in page and not re.search(r"<td><button[^>]*><span>", page)
    assert 0 < page.split("The strongest")[1].count("<li><button") <= 12


def test_two_settings_stand_in_each_cell(desk, job):
    other = served(desk, job.settings.replace(amplifiers="5", layers="1-2"))
    page = view.table(job, 5, beside=other, opened=Cell("mlp_output", 1, 5))
    assert page.count('<td class="pair">') == 9 and page.count('data-side="a"') == 9
    assert page.count('data-side="b"') == 6 == page.count('aria-label="B, layer') and page.count("absent") == 3
    assert page.index("layer </span>1<") < page.index('<tr class="opened"') < page.index("layer </span>2<")
    assert '<b class="which b">B</b> Of 6 vectors' in page and "one of 3 / the only one" in page
    similar = view.table(job, 5, "similarity", beside=other)
    heads = re.findall(r'<th scope="col" class="(\w+)">([^<]*)</th>', similar)
    assert heads[:2] == [("plain", "α = 1"), ("amplified", "best of 2 amplified / amplified")]
    assert similar.count("absent") == 9 + 3  # no plain reading beside, and no layer 0
    assert '<b class="which b">B</b>' in view.ladder(other, Cell("mlp_output", 1, 5), side="b")


def test_the_report_stands_alone(job):
    page = report(job, "x = '<b>'")
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert "default-src 'none'" in page and PROMPT in page and "fingerprint" in page and "all-MiniLM-L6-v2" in page
