"""Made-up folders in the formats of the published benchmarks."""

import csv
import json

SUBJECTS = ["Lirra", "Doom", "Pelk", "Varn", "Oster", "Quill", "Sand", "Brook", "Tarn", "Mire", "Gale", "Fenn"]
COLUMNS = ["sample_id", "prompt_target", "position_target", "object", "subject", "prompt_source"]


def write_tsv(folder, name, rows, columns=COLUMNS):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.tsv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def attribute_rows(answers, asks="The river of x", contexts=2):
    """Two rows per subject, in different contexts, with what follows the subject."""
    return [
        {"sample_id": number, "prompt_target": asks, "position_target": "-1", "object": answer, "subject": subject,
         "prompt_source": f" {'They came to' if turn else 'A hill near'} {subject} in the spring"}
        for number, (subject, answer) in enumerate(answers.items()) for turn in range(contexts)
    ]  # fmt: skip


def write_items(folder, name, items):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"lens-eval-{name}.json").write_text(json.dumps({"items": items}, ensure_ascii=False), encoding="utf-8")
    return folder
