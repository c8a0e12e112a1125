"""Other entities: what is said where descriptions only tell the kind of thing."""

import pandas as pd

from helpers.experiments import elsewhere
from helpers.judging.chance import others
from helpers.judging.effects import beside_chance


def test_where_all_of_a_category_are_described_alike_nothing_is_said_of_it():
    """Others of the category have the same description, and are no others: there is no chance of the category."""
    truths = ["a band", "a band", "a film", "a film"]
    table = pd.DataFrame([[truth == other for other in truths] for truth in truths]).to_numpy(float)
    about = {"judged by": "description", "component": "mlp_output", "method": "Superscopes"}
    lines = [
        about | {"category": category} | beside_chance(table, others(truths))
        | {f"{name} same": value for name, value in beside_chance(table, others(truths, truths, "same")).items()}
        for category in (elsewhere.ALL, "bands", "films")
    ]  # fmt: skip
    found = elsewhere.Found("m", 4, "2", {"Superscopes": 5}, ["description"], pd.DataFrame(lines))
    [said] = elsewhere.sentences(elsewhere.Settings(), found)
    assert "100.0 % of (entity, layer) pairs interpreted; 100.0 % (" in said and "categor" not in said
