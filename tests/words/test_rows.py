"""The row schema: names and order of columns are what every file, ledger and reader depends on."""

import csv

from helpers import ROOT
from helpers.words.rows import (
    DIGITS,
    ITEM_COLUMNS,
    LATER,
    MAY_LACK,
    PAPER_COLUMNS,
    READING_COLUMNS,
    ROW_COLUMNS,
    SCHEMA,
    SCORE_COLUMNS,
    STATUSES,
    TRIED_AGAIN,
    Item,
    Reading,
)


def test_columns_are_those_of_committed_files():
    with open(ROOT / "tests" / "golden.csv", encoding="utf-8", newline="") as lines:
        assert tuple(next(csv.reader(lines))) == tuple(name for name in ROW_COLUMNS if name not in MAY_LACK)
    assert PAPER_COLUMNS == ("source prompt", "token", "layer", "amplification value", "result")


def test_every_field_has_a_column_and_every_column_a_meaning():
    assert set(ITEM_COLUMNS.values()) == set(Item._fields) and set(READING_COLUMNS.values()) == set(Reading._fields)
    assert {*ITEM_COLUMNS, *READING_COLUMNS, *SCORE_COLUMNS} == set(ROW_COLUMNS)
    assert len(set(ROW_COLUMNS)) == len(ROW_COLUMNS) == len(SCHEMA)
    assert all(column.meaning for column in (*SCHEMA, *LATER))
    assert {column.type for column in SCHEMA} == {"text", "int", "number", "float"}
    runs = {"rho": 4, "entropy": 3, "log_prob": 3, "score": 6, "score first item": 6, "score gold": 6}
    assert DIGITS == runs | {"mean_rank": 3, "confidence": 3}
    assert not {column.name for column in LATER} & set(ROW_COLUMNS)


def test_statuses():
    assert Reading("a text").status == "ok" and STATUSES["ok"] == ""
    assert set(TRIED_AGAIN) < set(STATUSES) and "nonfinite" not in TRIED_AGAIN, "it would come out the same"
