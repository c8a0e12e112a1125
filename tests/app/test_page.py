"""The real page in headless Chromium: what a visitor does, and that nothing leaves this machine.

The fast tier has the most telling visits; the others are slow.
"""

import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest
from browser import CHROMIUM, ask, browser, eventually, wait_until_over

from helpers import believe, label, sweep
from helpers.app.desk import Desk
from helpers.app.server import Server
from helpers.words.chats import chat

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine; apt-get install chromium")
PROMPT = "Diana, Princess of Wales"
LONG = "1:300:0.5"  # amplifiers of a request that takes seconds
CLOSES_LATE = """(() => {  // a page that isn't told that the stream of its answers is closed while window.late
  const ask = window.fetch;
  window.fetch = async (...asked) => {
    const answer = await ask(...asked);
    if (!String(asked[0].url ?? asked[0]).includes('/queue/data')) return answer;
    const late = new TransformStream({async transform(chunk, to) {
      const said = new TextDecoder().decode(chunk), at = said.indexOf('data: {"msg":"close_stream"');
      if (!window.late || at < 0) return to.enqueue(chunk);
      to.enqueue(new TextEncoder().encode(said.slice(0, at)));
      document.documentElement.dataset.closing = 'yes';
      await new Promise(() => {});
    }});
    return new Response(answer.body.pipeThrough(late), {headers: answer.headers, status: answer.status});
  };
})()"""


@pytest.fixture(scope="module")
def server(tiny_folder, no_runs):
    server = Server(Desk(str(tiny_folder)))
    yield server
    server.close()


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture
def visit(chromium, server):
    """Return a function that opens the page as a new visitor; at the end, check that no script failed and that no other
    host was asked.
    """
    seen, contexts = [], []

    def open_page(query: str = "", width: int = 1280, height: int = 900, script: str = "", **more):
        context = chromium.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a machine may be busy
        page.add_init_script(script)
        page.on("request", lambda request: seen.append(request.url))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.on("dialog", lambda dialog: seen.append(f"dialog: {dialog.message}") or dialog.dismiss())
        page.goto(server.url + query)
        page.wait_for_selector("#tokens label")
        page.wait_for_selector("#status-a .status.busy", state="detached", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    home = server.url.rstrip("/")
    assert seen and not [url for url in seen if not url.startswith((home, "blob:", "data:"))]


def chips(page) -> list[str]:
    return page.locator("#tokens label").all_inner_texts()


def test_type_choose_interpret_and_download(visit, tiny, tmp_path):
    page = visit()
    page.locator("#prompt textarea, #prompt input").press_sequentially(" and Diana", delay=20)
    page.wait_for_function("document.querySelector('#tokens').innerText.trim().endsWith('and\\nDiana')")
    assert [chip.strip() for chip in chips(page)] == ["D", "iana", ",", "Princess", "of", "Wales", "and", "Diana"]
    assert page.locator("#tokens input:checked").count() == 1  # the last
    page.locator("#tokens label").nth(5).click()
    page.locator("#tokens label").nth(7).click()
    page.get_by_label("MLP output").uncheck()
    page.locator("#tokens label").nth(3).click()
    ask(page, layers="0-2", amplifiers="1, 3")
    assert wait_until_over(page).startswith("24 readings")
    assert page.locator("#table-a tbody tr").count() == 3 and page.locator("#table-a td button").count() == 6

    page.get_by_role("tab", name="Export").click()
    with page.expect_download() as download:
        page.click("#csv-a")
    download.value.save_as(tmp_path / "app.csv")
    wanted = sweep(
        tiny, PROMPT + " and Diana", ("pre_mlp_residual", "hidden_state"), "0-2", (1, 3), token=[3, 5]
    ).to_csv(tmp_path / "sweep.csv", index=False, lineterminator="\n")
    columns = ["token", "result", "score", "id"]
    given, wanted = (pd.read_csv(tmp_path / name, keep_default_na=False)[columns] for name in ("app.csv", "sweep.csv"))
    pd.testing.assert_frame_equal(
        given.sort_values("id", ignore_index=True), wanted.sort_values("id", ignore_index=True)
    )
    for button, ending in (("json", ".json"), ("report", ".html")):
        with page.expect_download() as download:
            page.click(f"#{button}-a")
        assert download.value.suggested_filename.endswith(ending)
    page.wait_for_function("document.querySelector('#python-a').innerText.includes('sweep(')")


def test_a_long_prompt_leaves_the_button_where_it_is(visit):
    page = visit()
    page.locator("#prompt textarea, #prompt input").fill("Wales " * 50 + "你")
    page.wait_for_function("document.querySelectorAll('#tokens label').length > 51")
    last = page.locator("#tokens label").count() - 1
    box = page.locator("#tokens [data-testid=checkbox-group]")
    assert box.evaluate("one => one.scrollHeight > one.clientHeight") and box.bounding_box()["height"] < 200
    assert page.locator("#tokens label").nth(last).inner_text().strip() == "你 2/2"

    def has_bytes() -> None:
        page.mouse.move(0, 0)
        page.locator("#tokens label").nth(last).hover()
        assert page.locator("#tokens label").nth(last).get_attribute("title") == "bytes A0"

    eventually(has_bytes)

    def chosen() -> list[int]:
        boxes = page.locator("#tokens input").evaluate_all("all => all.map(one => one.checked)")
        return [place for place, checked in enumerate(boxes) if checked]

    def expect(words: str) -> None:
        page.wait_for_function("words => document.querySelector('#expected').innerText.startsWith(words)", arg=words)

    page.locator("#tokens label").nth(3).click()
    page.locator("#tokens label").nth(7).click(modifiers=["Shift"])
    page.wait_for_function("document.querySelectorAll('#tokens input:checked').length == 6")
    assert chosen() == [3, 4, 5, 6, 7, last]
    page.locator("#layers").locator("textarea, input").fill("0-2")
    page.locator("#amplifiers").locator("textarea, input").fill("1, 2")
    expect("108 readings")  # 6 tokens, 3 components, 3 layers, 2 amplifiers
    places = page.locator("#places").locator("textarea, input")
    places.fill("-3:, every 20th, 3-4")
    expect("126 readings")
    page.wait_for_function("document.querySelectorAll('#tokens input:checked').length == 7")
    assert chosen() == [3, 4, 19, 39, last - 2, last - 1, last]
    page.click("#interpret")
    assert wait_until_over(page).startswith("126 readings")
    expect("126 readings, about ")
    page.locator("#tokens label").nth(19).click()
    page.wait_for_function("document.querySelector('#places :is(textarea, input)').value == ''")
    expect("108 readings, about ")
    page.locator("#amplifiers").locator("textarea, input").fill("1:2000:1")
    expect("108,000 readings; at most 20,000 here")
    page.click("#interpret")
    page.wait_for_timeout(500)
    expect("108,000 readings; at most 20,000 here")
    assert not page.inner_text("#problem").strip() and page.locator("[role=alert]").count() == 1


def test_a_turn_of_a_chat_and_back(visit, tiny):
    page = visit("?prompt=Titanic&layers=1&amplifiers=1")
    page.click("#turn")
    wanted = chat([{"role": "user", "content": "Titanic"}])

    def is_chat() -> None:
        assert page.locator("#prompt textarea, #prompt input").input_value() == wanted
        assert [chip.strip() for chip in chips(page)] == [one.strip() or "⏎" for one in tiny.decoded_tokens(wanted)]
        chosen = page.locator("#tokens label:has(input:checked)").all_inner_texts()
        assert [one.strip() for one in chosen] == [tiny.decoded_tokens("Titanic")[-1].strip()]

    eventually(is_chat)
    page.click("#turn")
    page.wait_for_function("document.querySelectorAll('#tokens label').length < 5")
    page.wait_for_function("document.querySelector('#prompt :is(textarea, input)').value == 'Titanic'")
    ask(page)
    wait_until_over(page)
    page.locator("#table-a td button").first.click()
    page.wait_for_selector("#ladder-a .ladder")
    assert "the residual stream before the MLP adds to it" in page.inner_text("#table-a thead")
    assert "ρ how long it then is" in page.inner_text("#ladder-a .legend")


@pytest.mark.slow
def test_an_idle_page_asks_nothing(visit):
    page = visit()
    ask(page, layers="1", amplifiers="1")
    wait_until_over(page)
    page.wait_for_timeout(1000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert not asked


def by_similarity(page) -> None:
    """Show what is chosen by similarity to the prompt: one click."""
    page.locator("#choice-a label", has_text="chosen by similarity to the prompt").click()
    page.wait_for_selector("#table-a table.similarity")
    page.wait_for_selector("#show-a")


def test_the_first_table_is_chosen_without_the_prompt_and_the_papers_is_one_click_away(visit, server, tiny):
    page = visit()
    ask(page, layers="0-2", amplifiers="1, 2, 3")
    said = wait_until_over(page)
    assert re.match(r"27 readings.*, weighed in \d", said)
    rows = sweep(tiny, PROMPT, ("pre_mlp_residual", "mlp_output", "hidden_state"), "0-2", (1, 2, 3))
    best = believe(tiny, rows).sort_values(["layer"], kind="stable")

    def shown() -> list[str]:
        return page.locator("#table-a td button").evaluate_all("all => all.map(one => one.ariaLabel)")

    blind = shown()
    assert len(blind) == 9 and not page.locator("#show-a").is_visible()
    for label_, row in zip(blind, best.to_dict("records"), strict=True):
        assert f"layer {row['layer']}, " in label_ and f"amplifier {row['amplification value']:g}: {row['result']}" in label_
        assert f"uncalibrated · rank {row['mean_rank']:.2f}" in label_
    assert "9 uncalibrated" in page.inner_text("#table-a .counts")
    before = len(server.desk._jobs)
    by_similarity(page)
    assert len(shown()) == 18 and all("score" in one for one in shown()) and page.locator("#show-a").is_visible()
    page.locator("#table-a td.amplified button").first.click()
    page.wait_for_selector("#ladder-a .ladder")
    assert page.locator("#ladder-a .tag.blind").count() == page.locator("#ladder-a .tag.amplified").count() == 1
    page.locator("#choice-a label", has_text="chosen without the prompt").click()
    page.wait_for_selector("#table-a table.blind")
    assert shown() == blind and len(server.desk._jobs) == before and page.inner_text("#status-a .status").strip() == said


def test_what_is_clicked_while_the_stream_of_answers_closes_is_not_lost(visit):
    page = visit(script=CLOSES_LATE)
    page.evaluate("window.late = true")
    ask(page, layers="0-1", amplifiers="1, 2")
    page.wait_for_selector("html[data-closing=yes]")
    by_similarity(page)
    page.locator("#table-a td.amplified button").first.click()
    page.wait_for_selector("#ladder-a .ladder")
    page.get_by_role("tab", name="Map").click()
    page.wait_for_selector("#map-a section")
    page.locator("#prompt textarea, #prompt input").fill("Wales")
    page.wait_for_function("document.querySelectorAll('#tokens label').length < 5")


@pytest.mark.slow
def test_show_all_and_the_ladder(visit):
    page = visit()
    ask(page, layers="0-1", amplifiers="1, 2, 3")
    wait_until_over(page)
    by_similarity(page)
    assert page.locator("#table-a td.amplified .reading").count() == 6
    page.get_by_text("all amplified").click()
    page.wait_for_function("document.querySelectorAll('#table-a td.amplified .reading').length == 12")
    page.locator("#table-a td.amplified button").nth(1).click()
    page.wait_for_selector("#ladder-a .ladder")
    assert page.locator("#ladder-a tbody tr").count() == 3
    assert page.locator("#ladder-a tbody th").all_inner_texts() == ["1", "2", "3"]
    label = page.locator("#ladder-a .scale").first.get_attribute("aria-label")
    assert re.fullmatch(r"score -?0\.\d\d, by chance -?0\.\d\d to -?0\.\d\d", label)


def test_what_is_it(visit, tiny):
    """A click on a reading, then: is it a person, a country…?"""
    page = visit()
    ask(page, layers="0-1", amplifiers="1, 2, 3")
    wait_until_over(page)
    assert not page.locator("#labels-a").is_visible()
    page.locator("#table-a tbody tr").nth(1).locator("td button").nth(2).click()
    page.wait_for_selector("#labels-a")
    best = re.search(r"Chosen without the prompt: α = (\S+),", page.inner_text("#ladder-a"))[1]
    page.wait_for_function("best => document.querySelector('#alpha-a input')?.value == best", arg=best)
    field = page.locator("#labels-a").locator("textarea, input")
    assert field.get_attribute("placeholder") == "band, person, country, food"
    field.fill("person, country, <b>band</b>")
    field.press("Enter")
    page.wait_for_selector("#answer-a .answer", timeout=60_000)
    wanted = label(tiny, PROMPT, "person, country, <b>band</b>", layers=1, amplifiers=float(best), target_layer="same")
    wanted = wanted.sort_values("probability", ascending=False)
    assert page.locator("#answer-a tbody th").all_inner_texts() == list(wanted["label"])
    shown = [float(text.split()[0]) for text in page.locator("#answer-a td:nth-child(3)").all_inner_texts()]
    assert shown == pytest.approx(list(wanted["probability"]), abs=0.006)
    assert f"hidden state, layer 1, token “Wales”, α = {best}" in page.inner_text("#answer-a h3")

    page.locator("#alpha-a input").fill("7")  # any amplifier
    page.locator("#alpha-a input").press("Enter")
    page.click("#ask-a")
    page.wait_for_function("document.querySelector('#answer-a h3')?.innerText.endsWith('α = 7')")
    field.fill("person")
    field.press("Enter")
    page.wait_for_selector("#answer-a [role=alert]")
    assert "expected 2 to 50 labels" in page.inner_text("#answer-a")
    page.locator("#alpha-a input").fill("many")
    page.locator("#alpha-a input").press("Enter")
    page.click("#ask-a")
    page.wait_for_function("document.querySelector('#answer-a').innerText.includes('expected one number')")

    page.locator("#table-a td button").nth(0).click()  # another vector: the answer is not about it
    page.wait_for_function("!document.querySelector('#answer-a').innerText.trim()")
    assert page.locator("#labels-a").is_visible()
    ask(page, layers="0", amplifiers="1")
    wait_until_over(page)
    page.wait_for_selector("#labels-a", state="hidden")


@pytest.mark.slow
def test_stop_keeps_what_is_there(visit):
    page = visit()
    ask(page, layers="0-2", amplifiers=LONG)
    page.wait_for_selector("#status-a progress")
    page.wait_for_selector("#status-a .numbers:has-text('per second')")  # known after the first batch
    assert re.search(r"of 5,391 readings · [1-9]\d* per second · \d+ s left", page.inner_text("#status-a .numbers"))
    page.wait_for_selector("#table-a td button")
    page.click("#stop")
    assert re.match(r"Stopped after [\d,]+ of 5,391 readings", wait_until_over(page))
    assert page.locator("#table-a td button").count()
    page.get_by_role("tab", name="Export").click()
    page.wait_for_selector("#csv-a:not([disabled])")


@pytest.mark.slow
def test_the_map_computes_the_rest_and_jumps_to_a_cell(visit):
    page = visit()
    ask(page, layers="1", amplifiers="1, 7")
    wait_until_over(page)
    page.get_by_role("tab", name="Map").click()
    page.wait_for_selector("#map-a td button")
    assert page.locator("#map-a td button").count() == 3 and page.locator("#map-a span.missing").count() == 51
    page.wait_for_function("document.querySelector('#rest-a').innerText.startsWith('Compute the rest: 102 readings')")
    page.click("#rest-a")
    page.wait_for_function("document.querySelectorAll('#map-a td button').length == 54")
    page.locator("#map-a table").nth(1).locator("tbody tr").nth(0).locator("button").nth(2).click()
    page.wait_for_selector("#ladder-a .ladder")
    assert page.inner_text("#ladder-a h3") == "MLP output, layer 2, token “,”"
    assert page.get_by_role("tab", name="Readings").get_attribute("aria-selected") == "true"


def test_a_link_opens_with_the_results(visit, server):
    """What was read is there at once; what was not is read as if Interpret had been pressed."""
    page = visit()
    ask(page, prompt="Saturday Night Live", layers="0,2", amplifiers="1, 1.5:2:0.25", target_layer="0")
    wait_until_over(page)
    page.wait_for_function("window.location.search.includes('run=')")
    link = page.url
    page.get_by_role("tab", name="Export").click()
    without_run = re.sub("&run=.*", "", link)
    page.wait_for_function("link => document.querySelector('#link-a :is(textarea, input)')?.value == link", arg=without_run)
    page.get_by_role("tab", name="Readings").click()
    by_similarity(page)
    page.wait_for_function("window.location.search.includes('&choice=similarity&run=')")

    before = len(server.desk._jobs)
    for run in ("run=gone", "run="):  # of a server that was started anew
        copied = re.sub("run=[^&]*", run, page.url) if run else re.sub("&run=[^&]*", "", page.url)
        fresh = visit(copied.removeprefix(server.url))
        fresh.wait_for_selector("#table-a table.similarity td button")
        fresh.wait_for_selector("#show-a")
        values = [
            fresh.locator(f"#{name}").locator("textarea, input").first.input_value()
            for name in ("prompt", "layers", "amplifiers", "target-layer")
        ]
        assert values == ["Saturday Night Live", "0,2", "1, 1.5:2:0.25", "0"]
        assert "Saturday Night Live" in fresh.inner_text("#heading-a")
        assert len(server.desk._jobs) == before
    assert wait_until_over(fresh) == wait_until_over(page), "it is the same request"

    unread = visit(re.sub("amplifiers=[^&]*", "amplifiers=1,42", link).removeprefix(server.url))
    assert wait_until_over(unread).startswith("12 readings") and len(server.desk._jobs) == before + 1
    unread.wait_for_selector("#table-a table.blind td button")
    wrong = visit(re.sub("layers=[^&]*", "layers=77", link).removeprefix(server.url))
    wrong.wait_for_selector("#problem [role=alert]")
    assert "layers=77: this model has layers 0–2" in wrong.inner_text("#problem") and len(server.desk._jobs) == before + 1


def test_two_visitors_are_served_in_turn_and_see_their_own(visit, held):
    first, second = visit(), visit()
    ask(first, prompt="Titanic", layers="0-2", amplifiers="1:20:0.5")
    first.wait_for_selector("#status-a progress")
    ask(second, prompt="Kill Bill", layers="1", amplifiers="1, 2")
    second.wait_for_function(
        "document.querySelector('#status-a').innerText.includes('Waiting: 1 request is served first')"
    )
    held.set()
    wait_until_over(second), wait_until_over(first)
    assert "Titanic" in first.inner_text("#heading-a") and "Kill Bill" in second.inner_text("#heading-a")
    assert first.locator("#table-a tbody tr").count() == 3 and second.locator("#table-a tbody tr").count() == 1


@pytest.mark.slow
def test_what_was_typed_a_moment_ago_is_what_is_read(visit):
    page = visit()
    for prompt in ("Kill Bill", "Red Hot Chili Peppers", "Star Wars"):
        ask(page, prompt=prompt, layers="1", amplifiers="1")
        page.wait_for_function(f"document.querySelector('#heading-a').innerText.includes('{prompt}')")
        assert wait_until_over(page).startswith("3 readings")
    assert "“Wars”" in page.inner_text("#table-a")


@pytest.mark.slow
def test_an_error_beside_a_running_request_stays(visit, server):
    page = visit()
    ask(page, layers="0-2", amplifiers=LONG)
    page.wait_for_selector("#status-a progress")
    page.locator("#layers").locator("textarea, input").first.fill("9")
    page.click("#interpret")
    page.wait_for_selector("#problem [role=alert]")
    assert page.locator("#status-a progress").count() == 1
    assert not list(server.desk._jobs.values())[-1].stop.is_set()
    page.click("#stop")
    wait_until_over(page)
    assert "layers=9" in page.inner_text("#problem")


@pytest.mark.slow
def test_side_by_side_and_the_history(visit, server):
    page = visit(width=1440)
    page.get_by_text("Side by side").click()
    page.get_by_label("Read a second time").check()
    page.wait_for_timeout(300)
    ask(page, layers="1", amplifiers="1, 2, 3", other_amplifiers="5")
    wait_until_over(page), wait_until_over(page, "b")
    assert "α 1, 2, 3" in page.inner_text("#heading-a") and "α 5" in page.inner_text("#heading-a")
    assert page.locator("#table-a td.pair").count() == 3 and page.locator("#table-a td button").count() == 6
    right = "document.querySelector('#table-a table').getBoundingClientRect().right"
    assert page.evaluate(right) <= 1440 and page.evaluate("document.documentElement.scrollWidth") <= 1440
    page.locator("#table-a [data-side=b]").nth(1).click()
    page.wait_for_selector("#ladder-a .ladder")
    assert page.inner_text("#ladder-a h3").split() == "B MLP output, layer 1, token “Wales”".split()
    assert page.locator("#ladder-a tbody tr").count() == 1
    before = len(server.desk._jobs)
    copied = visit(re.sub("&run=.*", "", page.url).removeprefix(server.url))
    copied.wait_for_selector("#table-a td.pair button")
    copied.wait_for_function("document.querySelector('#heading-a').innerText.includes('α 5')")
    assert len(server.desk._jobs) == before
    page.get_by_label("Read a second time").uncheck()
    page.wait_for_timeout(300)
    ask(page, layers="2", amplifiers="1")
    wait_until_over(page)
    page.wait_for_selector("#table-a td.pair", state="detached")
    page.wait_for_selector("#status-b", state="hidden")
    page.get_by_text("This visit").click()
    page.locator("#history input").click()
    options = page.get_by_role("option")
    options.nth(2).wait_for()
    assert options.count() == 3
    options.nth(0).click()
    page.wait_for_function("document.querySelector('#heading-a').innerText.includes('α 1, 2, 3')")
    page.wait_for_function("document.querySelector('#amplifiers :is(textarea, input)').value == '1, 2, 3'")


@pytest.mark.slow
def test_examples_are_one_click_away(visit):
    page = visit()
    page.get_by_text("Red Hot Chili Peppers").click()
    page.wait_for_function(
        "document.querySelector('#amplifiers textarea, #amplifiers input').value.startsWith('1, 1.3')"
    )

    def is_filled() -> None:
        assert page.locator("#components input:checked").count() == 1 and chips(page)[-1].strip() == "ppers"

    eventually(is_filled)


def test_bad_input_is_reported_in_the_page_and_breaks_nothing(visit):
    page = visit()
    page.locator("button", has_text="More").first.click()
    usual = {"prompt": PROMPT, "layers": "1", "amplifiers": "1", "target_layer": "same", "threshold": "0.3", "new_tokens": "5"}
    for settings, message in (
        ({"prompt": ""}, "prompt='': type a prompt first"),
        ({"layers": "9"}, "layers=9: this model has layers 0–2"),
        ({"new_tokens": "0"}, "max_new_tokens=0: expected a whole number"),
    ):
        ask(page, **usual | settings)
        page.wait_for_selector("#problem [role=alert]")
        assert message in page.inner_text("#problem")
        ask(page, **usual)
        page.wait_for_selector("#problem [role=alert]", state="detached")
        assert "3 readings" in wait_until_over(page)


@pytest.mark.slow
def test_ten_megabytes_pasted(visit):
    page = visit()
    page.evaluate(
        """() => { const box = document.querySelector('#prompt textarea, #prompt input');
        box.value = 'x'.repeat(10e6); box.dispatchEvent(new Event('input', {bubbles: true})); }"""
    )
    page.wait_for_function("document.querySelector('#tokens').innerText.includes('at most 20,000')", timeout=60_000)
    page.click("#interpret")
    page.wait_for_selector("#problem [role=alert]", timeout=60_000)
    assert "10,000,000 characters; at most 20,000" in page.inner_text("#problem")


@pytest.mark.slow
def test_prompts_and_readings_are_text(visit, server):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    page = visit()
    ask(page, prompt=evil, layers="1", amplifiers="1, 2")
    wait_until_over(page)
    job = list(server.desk._jobs.values())[-1]
    job.readings = {
        id: scored._replace(reading=scored.reading._replace(result=evil + "${alert(3)}{{value}}"))
        for id, scored in job.readings.items()
    }
    by_similarity(page)
    page.get_by_text("all amplified").click()
    page.wait_for_function("document.querySelector('#table-a').innerText.includes('${alert(3)}{{value}}')")
    page.locator("#table-a td button").first.click()
    page.wait_for_selector("#ladder-a .ladder")
    page.get_by_role("tab", name="Map").click()
    page.wait_for_selector("#map-a td button")
    assert evil in page.inner_text("#heading-a")
    assert (
        page.locator("#table-a img, #ladder-a img, #map-a img, #heading-a img, .gradio-container script").count() == 0
    )


@pytest.mark.slow
def test_keyboard_and_labels(visit):
    page = visit()
    ask(page, layers="0-2", amplifiers="1, 2")
    wait_until_over(page)
    cell = page.locator("#table-a td button").first
    cell.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert "layer 1, MLP output, amplifier" in page.evaluate("document.activeElement.ariaLabel")
    page.keyboard.press("Enter")
    page.wait_for_selector("#ladder-a .ladder")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select')].filter(one => one.offsetParent &&
        !(one.ariaLabel || one.innerText?.trim() || one.labels?.length || one.title || one.closest('label') ||
          one.getAttribute('aria-labelledby'))).map(one => one.outerHTML.slice(0, 150))"""
    )
    assert not unnamed
    assert page.locator("[role=status], [role=alert]").count() >= 1


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const behind = one => { const layers = [];
    for (let at = one; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]); };
  const light = colour => { const [r, g, b] = colour.map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const low = [];
  for (const one of document.querySelectorAll(
    'header.top *, .asked *, .status *, .readings *, .ladder *, .legend *, .caption, .answer *')) {
    const own = [...one.childNodes].filter(node => node.nodeType == 3 && node.textContent.trim());
    if (!own.length || !one.offsetParent) continue;
    const back = behind(one), [a, b] = [light(over(rgba(getComputedStyle(one).color), back)), light(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${one.className} ${one.innerText.slice(0, 20)}`);
  }
  return low;
}"""


@pytest.mark.parametrize(
    "width, scheme",
    [(375, "dark"), *(pytest.param(*other, marks=pytest.mark.slow) for other in ((375, "light"), (1600, "light"), (1600, "dark")))],
)
def test_it_fits_and_can_be_read(visit, width, scheme):
    page = visit(width=width, color_scheme=scheme)
    ask(page, prompt=PROMPT, layers="0-2", amplifiers="1, 2")
    wait_until_over(page)
    page.locator("#table-a td button").first.click()
    page.wait_for_selector("#ladder-a .ladder")
    page.locator("#labels-a").locator("textarea, input").fill("band, a person, food, Welsh rugby football player")
    page.click("#ask-a")
    page.wait_for_selector("#answer-a .answer", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink = page.evaluate("getComputedStyle(document.querySelector('header.top h1')).color")
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > 380) == (scheme == "dark")
    page.mouse.move(0, 0)
    assert page.evaluate(CONTRAST) == []


def test_the_policy_keeps_other_hosts_out(chromium, server):
    page = chromium.new_page()
    page.set_default_timeout(120_000)
    page.goto(server.url)
    asked = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}/x"
        reach = "async url => { try { await fetch(url); return 'reached'; } catch { return 'refused'; } }"
        assert page.evaluate(reach, url) == "refused" and not asked
        page.goto(url)
        assert page.evaluate(reach, url) == "reached" and asked  # so it was the policy
        other.shutdown()
    page.goto(server.url)
    blocked = page.evaluate(
        """() => new Promise(done => { document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));
        const picture = new Image(); picture.src = 'http://example.invalid/x.png'; setTimeout(() => done('loaded'), 3000); })"""
    )
    assert blocked.startswith("http://example.invalid")
