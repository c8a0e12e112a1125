"""Chats as prompts: files of them, the model's template, turns by role, and what is refused."""

import json

import pytest

from helpers import InputError, make_plan
from helpers.judging.score import score
from helpers.models.load import read_model
from helpers.runs.sweep import rows_of
from helpers.words.chats import chat, in_template, messages_of, plain_text
from helpers.words.plans import positions
from helpers.words.prompts import read_prompts
from helpers.words.rows import Reading

TURNS = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "user"},  # which stands in the template, too
    {"role": "assistant", "content": "Yes, user?"},
    {"role": "user", "content": " Who wrote Faust? "},
]


@pytest.fixture(scope="module")
def card():
    return read_model("smollm2-135m")


def own_ids(card, messages, begin):
    """Return what transformers itself makes of a chat."""
    return card.tokenizer.apply_chat_template(messages, add_generation_prompt=begin, return_dict=False)


def test_a_chat_is_tokenized_by_the_models_own_template(card):
    assert card.token_ids(chat(TURNS)) == own_ids(card, TURNS, begin=True)
    assert card.token_ids(chat(TURNS[:3])) == own_ids(card, TURNS[:3], begin=False)
    assert in_template(chat(TURNS), card).endswith("Who wrote Faust? <|im_end|>\n<|im_start|>assistant\n")
    for text in ("[INST] a [/INST]", '[{"name": "role"}]', '[{"role": "user", "content": "a"', '["role"]', "[]"):
        assert not messages_of(text) and card.token_ids(text) == card.tokenizer(text).input_ids


def test_brackets_within_brackets_are_a_plain_text_and_no_file_of_chats(tmp_path):
    deep = "[" * 100_000 + '"role"'
    assert messages_of(deep) == () and plain_text(deep) == deep
    (tmp_path / "deep.json").write_text(deep)
    with pytest.raises(InputError, match="prompts=.*deep.json': not JSON"):
        read_prompts(tmp_path / "deep.json")


def test_a_chat_is_a_prompt_in_every_form(card):
    of_python = make_plan(TURNS).prompts
    assert of_python == (chat(TURNS),) == make_plan(chat(TURNS)).prompts == make_plan([TURNS]).prompts
    assert make_plan([TURNS, "Titanic", TURNS[:3]]).prompts == (chat(TURNS), "Titanic", chat(TURNS[:3]))
    assert messages_of(of_python[0])[3].content == " Who wrote Faust? "
    assert plain_text(chat(TURNS[1:3])) == "user\nYes, user?" and plain_text("Titanic") == "Titanic"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("one.json", json.dumps(TURNS), [TURNS]),
        ("two.json", json.dumps([TURNS, TURNS[:2]], indent=1), [TURNS, TURNS[:2]]),
        ("lines.jsonl", f"{json.dumps(TURNS)}\n\n{json.dumps({'messages': TURNS[:2]})}\n", [TURNS, TURNS[:2]]),
        (
            "roles.txt", "system: Be kind.\nUser:  Hi,\n\nthere\nassistant: Hello\n---\nuser: Bye\n",
            [
                [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi,\n\nthere"},
                 {"role": "assistant", "content": "Hello"}],
                [{"role": "user", "content": "Bye"}],
            ],
        ),
    ],
)  # fmt: skip
def test_files_of_chats(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_prompts(tmp_path / name) == [chat(one) for one in expected]
    assert read_prompts(tmp_path / name, 1) == [chat(expected[0])]


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("last of user turn", " "), ("last of 1st user turn", "user"), ("last of 2nd user turn", " "),
        ("last of assistant turn", "?"), ("last of system turn", "."),
    ],
)  # fmt: skip
def test_turns_by_role(card, token, said):
    prompt = chat(TURNS)
    [place] = positions("token", token, prompt, card)
    decoded = card.decoded_tokens(prompt)
    assert decoded[place].endswith(said)
    turn = {"system": 0, "assistant": 2}.get(token.split()[-2], 1 if "1st" in token else 3)
    before = own_ids(card, TURNS[: turn + 1], begin=False)  # up to the end of this turn: what is said, <|im_end|>, \n
    assert place == len(before) - 3 and card.token_ids(prompt)[: len(before)] == before


def test_slices_and_every_nth(card):
    prompt, count = chat(TURNS), len(card.token_ids(chat(TURNS)))
    assert positions("token", "every 10th", prompt, card) == list(range(9, count, 10))
    assert positions("token", "every 1st", prompt, card) == list(range(count))
    assert positions("token", "3-7", prompt, card) == [3, 4, 5, 6, 7]
    assert positions("token", "-3:", prompt, card) == list(range(count - 3, count))
    plan = make_plan(TURNS, token=["every 10th", "last of user turn"], layers=1, amplifiers=1)
    assert [item.position for item in plan.items(card)][:2] == [9, 19]


def test_tokens_that_the_model_writes_have_names_and_positions(card):
    plan = make_plan(["Titanic", TURNS], layers=1, amplifiers=1, token=[-1, "written 1", "written"], continue_tokens=3)
    count = [len(card.token_ids(prompt)) for prompt in plan.prompts]
    found = [(item.source_prompt, item.position, item.token) for item in plan.items(card)]
    names = [(3, "written 3"), (1, "written 1"), (2, "written 2")]
    assert found == [
        (prompt, length + number - 1, name) for prompt, length in zip(plan.prompts, count, strict=True) for number, name in names
    ]
    assert plan.describe()["continue_tokens"] == 3 and "continue_tokens" not in make_plan("Titanic").describe()


def test_ids_of_plain_prompts_stay_and_a_chat_has_its_own(card):
    from helpers.words.rows import Identity

    identity = Identity("m", "f", "float32", "sdpa")
    [usual] = make_plan("Titanic", layers=1, amplifiers=1).items(card, identity)
    [longer] = make_plan("Titanic", layers=1, amplifiers=1, token=usual.position, continue_tokens=5).items(card, identity)
    assert usual.id == longer.id  # the vector is the same, whatever is written behind it
    [of_chat] = make_plan(chat(TURNS), layers=1, amplifiers=1, token=0).items(card, identity)
    plan = make_plan("x", layers=1, amplifiers=1, token=0)
    [of_text] = plan.with_ids([of_chat._replace(source_prompt=chat(TURNS) + " ")], card, identity)
    assert of_chat.id != of_text.id


def test_a_chat_is_scored_by_what_is_said(card):
    class Judge:
        name = fingerprint = ""

        def embed(self, texts):
            import numpy as np

            self.texts = texts
            return np.eye(len(texts), 99, dtype=np.float32)

    judge = Judge()
    items = make_plan(TURNS, layers=1, amplifiers=1).items(card)
    score(rows_of(items, [Reading("a poet")]), judge)
    assert plain_text(chat(TURNS)) in judge.texts and chat(TURNS) not in judge.texts


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"role": "bot", "content": "a"}], "message 0='bot': unknown role; expected system, user, assistant"),
        ([{"role": "user", "content": " "}], "message 0=' ': expected a text that is not empty"),
        ([{"role": "user", "content": ["a"]}], "expected text, got list"),
        ([{"role": "user"}], "expected a role and a content"),
        ([{"role": "user", "content": "a", "name": "b"}], "expected a role and a content"),
    ],
)
def test_messages_of_another_form_are_refused(messages, why):
    with pytest.raises(InputError, match=why):
        make_plan(messages)
    with pytest.raises(InputError, match=why):
        messages_of(json.dumps(messages))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.json", "[", "not JSON"), ("a.json", "[]", "holds no chats"), ("a.json", '{"a": 1}', "holds no chats"),
        ("a.jsonl", '["a"]\n', "number 1 is no chat"), ("a.txt", "Hello\nuser: a", "begins with 'Hello', not with a role"),
        ("a.txt", "user: \n", "not empty or blank"), ("b.json", None, "no such file"),
    ],
)  # fmt: skip
def test_files_of_another_form_are_refused(tmp_path, name, text, why):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=why):
        read_prompts(tmp_path / name)


def test_turns_and_templates_that_are_not_there_are_refused_before_anything_runs(card, tmp_path):
    def refused(why, on=card, **settings):
        with pytest.raises(InputError, match=why):
            make_plan(**{"layers": 1, "amplifiers": 1, "prompts": TURNS} | settings).items(on)

    refused("the chat has 2 user turns", token="last of 3rd user turn")
    refused("the chat has 0 assistant turns", token="last of assistant turn", prompts=TURNS[:2])
    refused("unknown role; expected system", token="last of bot turn")
    refused("'Titanic' is no chat", token="last of user turn", prompts="Titanic")
    refused("no tokens there", token="every 500th")
    refused("is not in", token="written 4", continue_tokens=3)
    refused(r"tokens \(8190 of them its own\), smollm2-135m reads 8192", continue_tokens=8190)
    template = card.tokenizer.chat_template
    try:
        card.tokenizer.chat_template = None
        refused("smollm2-135m has no chat template")
        card.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
        refused("template of smollm2-135m refuses it .*roles must alternate")
        card.tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
        refused("changes what is said; choose the token by its index", token="last of user turn")
        card.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %} {{ m.content | trim }}\n{% endfor %}"
        assert in_template(chat(TURNS), card).startswith("01 Jan 2025 Answer")
        assert card.decoded_tokens(chat(TURNS))[positions("token", "last of user turn", chat(TURNS), card)[0]] == "?"
    finally:
        card.tokenizer.chat_template = template
