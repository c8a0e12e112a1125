"""Chats as source prompts: messages that a model reads in the form of its own chat template, and the turns in them.

A chat is a prompt like any other, a text: the JSON list of its messages, [{"role": "user", "content": "…"}, …]. Nothing
else marks it, so that it goes through plans, ids, ledgers, CSVs and links as every prompt does. One that ends with the
user's turn is followed by what begins the assistant's.
"""

import datetime
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .. import InputError
from .files import in_repository
from .grammar import check_text, listed, token_turn

ROLES = ("system", "user", "assistant")
SUFFIXES = (".json", ".jsonl", ".txt")  # of files of chats
TODAY = datetime.date(2025, 1, 1)  # for templates that write the date: the same tokens on every day
NOW = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")  # how they ask for it
ROLE_LINE = re.compile(rf"({'|'.join(ROLES)}):[ \t]*(.*)", re.IGNORECASE)
BETWEEN = "---"  # a line between two chats of a text
FORM = (
    '[{"role": "user", "content": "…"}, …], a list of such lists, a .jsonl file with one on each line, or a .txt file '
    f"whose turns begin with user: or assistant: and whose chats have a line {BETWEEN} between them"
)


class Message(NamedTuple):
    """A turn of a chat: who speaks, one of ROLES, and what."""

    role: str
    content: str


def chat(messages: Sequence[Mapping[str, str]], parameter: str = "prompts") -> str:
    """Return messages as a prompt.

    Args:
        messages: {"role": …, "content": …} each.

    Raises:
        InputError: no messages, another form, an unknown role, or a content that is empty or no text.
    """
    if not messages:
        raise InputError(parameter, messages, "expected at least one message")
    said = [message._asdict() for message in _checked(messages, parameter)]
    return json.dumps(said, ensure_ascii=False)


def as_prompts(prompts: object, parameter: str = "prompts") -> list:
    """Return prompts as texts: one text or chat, or several; a chat may be a list of messages."""
    given = listed(prompts) if not isinstance(prompts, Mapping) else [prompts]
    if given and all(isinstance(one, Mapping) for one in given):
        return [chat(given, parameter)]
    return [chat(one, parameter) if _is_messages(one) else one for one in given]


@lru_cache(4096)
def messages_of(prompt: str) -> tuple[Message, ...]:
    """Return a chat's messages; () of a plain text.

    Raises:
        InputError: a list of messages with an unknown role, an empty content or other parts.
    """
    if not prompt.lstrip().startswith("[") or '"role"' not in prompt:
        return ()
    try:
        found = json.loads(prompt)
    except (ValueError, RecursionError):  # the latter of brackets within brackets
        return ()
    return _checked(found, "prompts") if found and _is_messages(found) and "role" in found[0] else ()


def plain_text(prompt: str) -> str:
    """Return what is said in a chat, turn after turn, without roles; a plain text as it is."""
    return "\n".join(message.content for message in messages_of(prompt)) or prompt


def read_chats(path: str | Path, parameter: str = "prompts") -> list[str]:
    """Read the chats of a file, as prompts; see FORM.

    Raises:
        InputError: no such file, another form, or a message as `chat` refuses it.
    """
    file = in_repository(path)
    if not os.path.isfile(file):
        raise InputError(parameter, str(path), "no such file")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".txt":
            found = [_with_roles(part, parameter, path) for part in re.split(rf"(?m)^{BETWEEN}[ \t]*$", text) if part.strip()]
        elif file.suffix.lower() == ".jsonl":
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(parameter, str(path), f"not JSON in UTF-8 ({error}); expected {FORM}") from error
    found = [found] if _is_messages(found) else found  # a single chat
    if not isinstance(found, list) or not found:
        raise InputError(parameter, str(path), f"holds no chats; expected {FORM}")
    chats = [one.get("messages") if isinstance(one, Mapping) else one for one in found]
    for number, one in enumerate(chats, start=1):
        if not _is_messages(one):
            raise InputError(parameter, str(path), f"number {number} is no chat; expected {FORM}")
    return [chat(one, parameter) for one in chats]


def in_template(prompt: str, card, **options) -> str:
    """Return a chat as the model's own template writes it.

    Args:
        options: that some templates know, such as enable_thinking.

    Raises:
        InputError: the model has no chat template, or its template refuses these messages.
    """
    return _written(messages_of(prompt), card, **options)


def turn_end(parameter: str, token: str, prompt: str, card) -> int:
    """Return the position of the last token of what is said in a turn.

    Args:
        token: the turn, as `grammar.token_turn` reads it.

    Raises:
        InputError: a plain text, no such turn, or a template that changes what is said.
    """
    role, number = token_turn(token)
    if role not in ROLES:
        raise InputError(parameter, token, f"unknown role; expected {', '.join(ROLES)}")
    messages = messages_of(prompt)
    if not messages:
        raise InputError(parameter, token, f"{prompt[:40]!r} is no chat; expected {FORM}")
    turns = [place for place, message in enumerate(messages) if message.role == role]
    if not 0 < (number or 1) <= len(turns):
        raise InputError(parameter, token, f"the chat has {len(turns)} {role} turn{'s' if len(turns) != 1 else ''}")
    text = _written(messages, card)
    found = _spans(messages, text, lambda some: _written(some, card))
    if found is None:
        why = f"the chat template of {card.name} changes what is said; choose the token by its index"
        raise InputError(parameter, token, why)
    start, end = found[turns[number - 1 if number else -1]]
    if not card.tokenizer.is_fast:
        return len(card.tokenizer(text[:end], add_special_tokens=False).input_ids) - 1
    offsets = card.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    return max(place for place, (first, last) in enumerate(offsets) if first < end and last > start)


def _written(messages: Sequence[Message], card, **options) -> str:
    if not getattr(card.tokenizer, "chat_template", None):
        raise InputError("prompts", messages[-1].content[:40], f"{card.name} has no chat template; write the prompt as a plain text")
    try:
        return card.tokenizer.apply_chat_template(
            [message._asdict() for message in messages], tokenize=False,
            chat_template=NOW.sub(lambda found: json.dumps(TODAY.strftime(found[2])), card.tokenizer.get_chat_template()),
            add_generation_prompt=messages[-1].role != "assistant", **options,
        )  # fmt: skip
    except Exception as error:  # of the template itself, of whatever kind
        why = f"the chat template of {card.name} refuses it ({' '.join(str(error).split())[:200]})"
        raise InputError("prompts", messages[-1].content[:40], why) from error


def _spans(
    messages: Sequence[Message], text: str, write: Callable[[Sequence[Message]], str]
) -> list[tuple[int, int]] | None:
    """Find where in a chat, as a template writes it, each content stands; None if the template changes contents.

    The template writes marks in their places, so that a content which stands elsewhere, too, isn't taken for itself.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    around = re.split("|".join(marks), write([Message(one.role, mark) for one, mark in zip(messages, marks, strict=True)]))
    if len(around) != len(messages) + 1:
        return None
    for contents in ([one.content for one in messages], [one.content.strip() for one in messages]):
        whole, spans = around[0], []
        for content, after in zip(contents, around[1:], strict=True):
            spans.append((len(whole), len(whole) + len(content)))
            whole += content + after
        if whole == text:
            return spans
    return None


def _is_messages(found: object) -> bool:
    return isinstance(found, Sequence) and not isinstance(found, str) and bool(found) and all(
        isinstance(one, Mapping) and "messages" not in one for one in found
    )


def _checked(messages: Sequence[Mapping[str, str]], parameter: str) -> tuple[Message, ...]:
    for number, message in enumerate(messages):
        where = f"{parameter}: message {number}"
        if set(message) != {"role", "content"}:
            raise InputError(where, dict(message), "expected a role and a content, both texts")
        if message["role"] not in ROLES:
            raise InputError(where, message["role"], f"unknown role; expected {', '.join(ROLES)}")
        check_text(where, message["content"])
    return tuple(Message(**message) for message in messages)


def _with_roles(text: str, parameter: str, path: str | Path) -> list[dict[str, str]]:
    """Read a chat whose turns begin with a role and a colon; lines without one go on with the turn before."""
    turns: list[tuple[str, list[str]]] = []
    for line in text.strip().splitlines():
        if found := ROLE_LINE.fullmatch(line):
            turns.append((found[1].lower(), [found[2]]))
        elif turns:
            turns[-1][1].append(line)
        else:
            raise InputError(parameter, str(path), f"a chat begins with {line[:40]!r}, not with a role; expected {FORM}")
    return [{"role": role, "content": "\n".join(lines).strip()} for role, lines in turns]
