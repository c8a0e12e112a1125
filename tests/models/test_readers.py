"""Published readers: files of exactly their formats, made here; what is written is what a plain hook's model writes.

The formats are tested; weights that others have published were not tried.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from reference import plain_placed, plain_vector
from safetensors.torch import load_file, save_file

from helpers import InputError, load_model, read
from helpers.engine.given import GivenVectors
from helpers.models.readers import open_reader
from helpers.runs.vectors import Request, believed
from helpers.words.vectors import VectorSettings

DRAWN = torch.Generator().manual_seed(3)
MARK = "<empty_output>"  # a token of SmolLM2 that no text has
TEMPLATE = f'<|im_start|>user\nWhat is "{MARK}"?<|im_end|>\n<|im_start|>assistant\n"{MARK}" is "'
PARTS = {
    "scale_only": {"log_scale": torch.tensor([1.2])},
    "scalar_affine": {"log_scale": torch.tensor([0.7]), "bias": torch.randn(32, generator=DRAWN)},
    "full_rank": {"weight": torch.randn(32, 32, generator=DRAWN), "bias": torch.randn(32, generator=DRAWN)},
    "low_rank_only": {"U": torch.randn(32, 4, generator=DRAWN), "V": torch.randn(32, 4, generator=DRAWN), "bias": torch.ones(32)},
    "scalar_affine_plus_low_rank": {
        "log_scale": torch.tensor([0.3]), "U": torch.randn(32, 4, generator=DRAWN), "V": torch.randn(32, 4, generator=DRAWN),
        "bias": torch.randn(32, generator=DRAWN),
    },
}  # fmt: skip
EXPRESSIONS = '"Titanic"; "King" - "Man"'
FEW = {"layers": "0,2", "random": 2, "max_new_tokens": 4}
INJECTED = "<jupyter_text>"


class Judge:
    """Texts as vectors of their letters."""

    name = fingerprint = "letters"
    threshold = 0.3

    def embed(self, texts):
        vectors = np.array([[text.count(letter) for letter in "aeiounstr "] + [1] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    embedded = embed


def selfie(path, kind, normalizes=True, dim=32, parts=None, **config):
    config = {"projection": {"type": kind, "normalize_input": normalizes}, "soft_prompt": {"template": TEMPLATE, "reserved_token": MARK}} | config
    metadata = {"format": "selfie_adapter_v1", "config_json": json.dumps(config), "model_dim": str(dim)}
    save_file({name: part.clone() for name, part in (parts or PARTS[kind]).items()}, path, metadata)
    return str(path)


@pytest.fixture(scope="module")
def oracle(tiny_folder, tmp_path_factory):
    """A real LoRA of the tiny model, as peft saves it, and peft's own model with it."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("oracle") / "lora"
    torch.manual_seed(1)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    trained = get_peft_model(load_model(str(tiny_folder)).model, settings).eval()
    trained.save_pretrained(folder)
    return folder, trained.get_base_model()


@pytest.fixture(scope="module")
def verbalizer(tiny, tiny_folder, tmp_path_factory):
    """Another model of the same form, its nla_meta.yaml beside its weights."""
    folder = tmp_path_factory.mktemp("nla") / "av"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(2)
    save_file({name: one + 0.05 * torch.randn_like(one) for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    write_meta(folder, tiny)
    return folder


def write_meta(folder, lm, **changes):
    ids = {text: lm.tokenizer(text, add_special_tokens=False).input_ids for text in (INJECTED, ">", "</")}
    meta = {
        "schema_version": 2, "kind": "nla_model", "role": "av", "d_model": 32, "extraction_layer_index": 1,
        "extraction": {"injection_scale": 5.0, "mse_scale": 5.66},
        "tokens": {"injection_char": INJECTED, "injection_token_id": ids[INJECTED][0], "critic_suffix_ids": None,
                   "injection_left_neighbor_id": ids[">"][0], "injection_right_neighbor_id": ids["</"][0]},
        "prompt_templates": {"av": "Say: <concept>{injection_char}</concept>", "ar": "{text}"},
    }  # fmt: skip
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            meta[part] = meta[part] | {key: value}
        else:
            meta[part] = value
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(meta, allow_unicode=True))


def raw_vectors(lm, source, asked):
    """Return (name, layer) -> the vector as it is before a reader sees it: of prompts by plain hooks, random as drawn."""

    def plain(prompt, layer):
        return plain_vector(source.model, source.tokenizer, prompt, "hidden_state", layer, -1).detach()

    def of(name, layer):
        if name.startswith("random"):
            vectors = [vector for plan in asked.plans for vector in plan.vectors if vector.name == name]
            return GivenVectors(source, vectors[:1] and [vectors[0]]).at(vectors[0], layer)
        if "Titanic" in name:
            return plain("Titanic", layer)
        return plain("King", layer) - plain("Man", layer)

    return of


def chat_text(lm, content):
    return lm.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)


def places(lm, text, mark):
    wanted = lm.tokenizer(mark, add_special_tokens=False).input_ids[0]
    return [place for place, token in enumerate(lm.tokenizer(text).input_ids) if token == wanted]


@pytest.mark.parametrize(("kind", "normalizes"), [*((kind, True) for kind in PARTS), ("scalar_affine", False)])
def test_selfie_adapters_give_what_a_plain_embedding_gives(kind, normalizes, tiny, tmp_path):
    path = selfie(tmp_path / "adapter.safetensors", kind, normalizes)
    rows = read(tiny, EXPRESSIONS, reader=path, judge=Judge(), batch_size=3, **FEW)
    asked = Request(VectorSettings.of({"model": tiny.name, "vectors": EXPRESSIONS, "reader": path, **FEW}), card=tiny)
    of, parts = raw_vectors(tiny, tiny, asked), PARTS[kind]
    embedding = tiny.model.get_input_embeddings()
    for _, row in rows.iterrows():
        if row["component"] == "none":
            continue
        vector = of(row["source prompt"], row["layer"])
        u = vector / (vector.norm() + 1e-8) if normalizes else vector
        soft = {
            "scale_only": lambda: parts["log_scale"].exp() * u,
            "scalar_affine": lambda: parts["log_scale"].exp() * u + parts["bias"],
            "full_rank": lambda: parts["weight"] @ u + parts["bias"],
            "low_rank_only": lambda: parts["V"] @ (parts["U"].T @ u) + parts["bias"],
            "scalar_affine_plus_low_rank": lambda: parts["log_scale"].exp() * u + parts["V"] @ (parts["U"].T @ u) + parts["bias"],
        }[kind]()
        text = plain_placed(tiny.model, tiny.tokenizer, lambda number, own: soft, ("out", embedding), 0, TEMPLATE, places(tiny, TEMPLATE, MARK), 4)
        assert row["result"] == text, row["source prompt"]
        assert (row["target component"], row["target layer"], row["amplification value"]) == ("embedding", 0, 1)
        assert row["first item"] == text.rsplit('"', 1)[0].strip()
    assert len(places(tiny, TEMPLATE, MARK)) == 2 and (rows["token"] == "random").sum() == (2 if normalizes else 8)
    assert rows.attrs["plans"][0]["reader"]["type"] == kind and rows.attrs["plans"][0]["target_component"] == ["embedding"]


@pytest.mark.parametrize("count", [1, 3])
def test_an_oracles_lora_reads_what_the_model_without_it_has(count, tiny, oracle):
    """Vectors are of the model without the LoRA, and are added after block 1 of the one with it."""
    folder, trained = oracle
    few = FEW | {"question": "What?", "placeholders": count}
    rows = read(tiny, EXPRESSIONS, reader=str(folder), judge=Judge(), batch_size=5, **few)
    asked = Request(VectorSettings.of({"model": tiny.name, "vectors": EXPRESSIONS, "reader": str(folder), **few}), source=tiny)
    of, seen = raw_vectors(tiny, tiny, asked), 0
    for _, row in rows[rows["component"] != "none"].iterrows():
        text = chat_text(tiny, f"Layer: {row['layer']}\n{' ?' * count} \nWhat?")
        vector = of(row["source prompt"], row["layer"])
        found = plain_placed(
            trained, tiny.tokenizer, lambda number, own: own + own.norm() * vector / vector.norm(), ("out", trained.model.layers[1]), 1,
            text, places(tiny, text, " ?")[:count], 4,
        )  # fmt: skip
        assert row["result"] == found, (row["source prompt"], row["layer"])
        seen += 1
    assert seen == 2 * 2 * 3
    table = believed(rows, Judge())
    assert table["layer"].tolist() == [0, 0, 2, 2] and table["source prompt"].str.fullmatch(r'("Titanic"|"King" - "Man"), layer [02]').all()


def test_a_verbalizer_reads_vectors_of_a_fixed_length_at_its_token(tiny, verbalizer):
    few = FEW | {"layers": "1"}
    rows = read(tiny, EXPRESSIONS, reader=str(verbalizer), judge=Judge(), **few)
    without = read(tiny, EXPRESSIONS, reader=str(verbalizer), judge=Judge(), random=2, max_new_tokens=4)
    assert rows["id"].tolist() == without["id"].tolist()  # layer 1 is what its file says
    av = load_model(str(verbalizer))
    asked = Request(VectorSettings.of({"model": tiny.name, "vectors": EXPRESSIONS, "reader": str(verbalizer), **few}), source=tiny)
    of, text = raw_vectors(tiny, tiny, asked), chat_text(av, f"Say: <concept>{INJECTED}</concept>")
    for _, row in rows[rows["component"] != "none"].iterrows():
        vector = of(row["source prompt"], row["layer"])
        found = plain_placed(
            av.model, av.tokenizer, lambda number, own: 5.0 * vector / vector.norm(), ("out", av.model.get_input_embeddings()), 0, text,
            places(av, text, INJECTED), 4,
        )  # fmt: skip
        assert row["result"] == found and row["component"] == "fixed_norm[vector]" and row["amplification value"] == 5
    assert [len(places(av, text, INJECTED)), len(rows)] == [1, 2 + 2 + 1] and rows.attrs["model"]["name"] == "av"


def test_what_a_verbalizer_says_is_cut_out_of_its_tag(tiny, verbalizer):
    target = open_reader(str(verbalizer)).target_prompt(load_model(str(verbalizer)))
    for text, said in {
        "Sure. <explanation> A ship,\nand a film </explanation> Bye": "A ship,\nand a film",
        "<explanation>no end": "no end", "no tag": "no tag",
    }.items():  # fmt: skip
        assert target.first_item(text) == said


def test_vectors_of_a_file_need_no_other_model(tiny, oracle, verbalizer, tmp_path):
    table = torch.randn(2, 32, generator=DRAWN)
    save_file({"t": table}, tmp_path / "some.safetensors")
    for path, more in ((oracle[0], {"layer": 2, "question": "What?"}), (verbalizer, {})):
        rows = read(tiny, str(tmp_path / "some.safetensors"), reader=str(path), judge=Judge(), random=0, max_new_tokens=3, **more)
        assert rows["source prompt"].tolist()[:2] == ["some:0", "some:1"] and set(rows["layer"][:2]) == {2 if more else 1}
    with pytest.raises(InputError, match="layer=.*is of no layer, and an activation oracle is told one"):
        read(tiny, str(tmp_path / "some.safetensors"), reader=str(oracle[0]), judge=Judge())


def test_the_shell_reads_with_each(tiny, tiny_folder, oracle, verbalizer, tmp_path, monkeypatch, capsys):
    from helpers.cli import main
    from helpers.runs.results import read_table

    monkeypatch.setattr("helpers.runs.ledger.WORK", tmp_path / "work")
    monkeypatch.setattr("helpers.runs.vectors.WORKED_OUT", tmp_path / "vectors")
    adapter = selfie(tmp_path / "adapter.safetensors", "scalar_affine")
    for number, (path, more) in enumerate(((adapter, []), (oracle[0], ["question=What?"]), (verbalizer, []))):
        out = tmp_path / f"out{number}"
        options = [f"reader={path}", "--layers", "1", "random=2", "max_new_tokens=3", f"out_dir={out}", "name=x", *more]
        assert main(["read", EXPRESSIONS, "--model", str(tiny_folder), *options]) == 0
        rows = read_table(out / "x.csv").rows
        settings = {"layers": "1", "random": 2, "max_new_tokens": 3} | ({"question": "What?"} if more else {})
        same = read(tiny, EXPRESSIONS, reader=str(path), judge=Judge(), **settings)
        assert rows["id"].tolist() == same["id"].tolist() and rows["result"].tolist() == same["result"].tolist()
        assert (out / "x-believed.csv").is_file()
    said = capsys.readouterr().out
    assert "in place of its embedding: n·v/‖v‖" in said and "into layer 1: h + c·‖h‖·v/‖v‖" in said


def refused(lm, reader, why, vectors='"King"', **settings):
    with pytest.raises(InputError, match=why):
        read(lm, vectors, reader=str(reader), judge=Judge(), **settings)


def test_selfie_files_that_do_not_fit_are_refused(tiny, tmp_path):
    path = tmp_path / "adapter.safetensors"
    wide = {"log_scale": torch.zeros(1), "bias": torch.zeros(16)}
    refused(tiny, selfie(path, "scalar_affine", parts=wide, dim=16), "made for vectors of 16 numbers; .* has a width of 32")
    refused(tiny, selfie(path, "scalar_affine", parts=wide), "its width is not clear: 16, 32")
    prompt = {"template": 'The <|reserved_7|> is "', "reserved_token": "<|reserved_7|>"}
    refused(tiny, selfie(path, "scale_only", soft_prompt=prompt), "'<|reserved_7|>' is no single token of .*: another tokenizer".replace("|", r"\|"))
    refused(tiny, selfie(path, "scale_only", soft_prompt={}), r"reserved_special_token_0\|>' is no single token")
    refused(tiny, selfie(path, "scale_only", parts=PARTS["scalar_affine"]), "bias is missing or too many")
    refused(tiny, selfie(path, "scalar_affine", parts=PARTS["scale_only"]), "bias is missing or too many")
    refused(tiny, selfie(path, "scale_only", projection={"type": "other", "normalize_input": True}), "its projection is 'other'")
    for config in ({"projection": ["scale_only"]}, {"projection": "scale_only"}, {"soft_prompt": "The"}):
        refused(tiny, selfie(path, "scale_only", **config), "its projection and its soft_prompt are no mappings")
    kinds = {"type": ["scale_only"], "normalize_input": True}
    refused(tiny, selfie(path, "scale_only", projection=kinds), "its projection is .'scale_only")
    refused(tiny, selfie(path, "scalar_affine", parts={**PARTS["scalar_affine"], "bias": torch.full((32,), torch.nan)}), "not finite")
    save_file({"log_scale": torch.zeros(1)}, path)
    refused(tiny, path, "has config_json in its metadata; this one has none")
    refused(tiny, tmp_path / "nowhere", "expected a selfie-adapters .safetensors file, a PEFT folder")
    good = selfie(path, "scale_only")
    refused(tiny, good, "way='plain': .* says it; leave it out", way="plain")
    refused(tiny, good, "target_layer=.* says it; leave it out", target_layer=2)
    refused(tiny, good, "mapped_from='x': can't be combined with a reader", mapped_from="x")
    with pytest.raises(InputError, match="placeholders=2: only an activation oracle has it"):
        read(tiny, '"King"', placeholders=2)
    save_file({"t": torch.randn(1, 16, generator=DRAWN)}, tmp_path / "narrow.safetensors")
    refused(tiny, good, "16 numbers; .* takes 32", vectors=str(tmp_path / "narrow.safetensors"))


def test_an_adapter_that_changed_after_it_was_looked_up_is_not_read(tiny, tmp_path):
    from helpers import run

    path = selfie(tmp_path / "adapter.safetensors", "scalar_affine")
    plan = Request(VectorSettings.of({"model": tiny.name, "vectors": '"King"', "reader": path, "layers": "1"}), card=tiny).plans[0]
    selfie(tmp_path / "adapter.safetensors", "scale_only")
    with pytest.raises(InputError, match="reader=.*the file has changed"):
        run(tiny, plan)


def test_oracles_of_other_models_are_refused(tiny, oracle, tmp_path):
    folder = tmp_path / "lora"
    shutil.copytree(oracle[0], folder)
    tensors = load_file(folder / "adapter_model.safetensors")

    def rewritten(change):
        save_file({name: one for name, one in change.items()}, folder / "adapter_model.safetensors", {"format": "pt"})

    rewritten({name: one for name, one in tensors.items() if ".layers.2." not in name})
    refused(tiny, folder, "made for a model of 2 layers; .* has 3")
    rewritten(tensors | {name.replace(".layers.2.", ".layers.3."): one.clone() for name, one in tensors.items() if ".layers.2." in name})
    refused(tiny, folder, "made for a model of 4 layers; .* has 3")
    rewritten({name: torch.zeros(4, 48) if "lora_A" in name else one for name, one in tensors.items()})
    refused(tiny, folder, "made for another width than 32: its matrices take 48 numbers")
    rewritten(tensors)
    tokenizer = json.loads((tiny.source.folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert open_reader(str(folder)).check(tiny) is None
    tokenizer["model"]["vocab"]["Superscopes!"] = max(tokenizer["model"]["vocab"].values()) + 1
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    refused(tiny, folder, "its tokenizer has other tokens than that of")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"d_model": 48}, "made for vectors of 48 numbers; .* has a width of 32"),
        ({"extraction_layer_index": 7}, "made for layer 7; .* has layers 0–2"),
        ({"tokens__injection_token_id": 5}, "is not number 5 of .*: another tokenizer"),
        ({"tokens__injection_left_neighbor_id": 5}, "beside .* are the tokens .*: another tokenizer"),
        ({"tokens__injection_char": "㈎㈎"}, "is no single token"),
        ({"extraction_layer_index": "seven"}, "nla_meta.yaml can't be used .*seven"),
        ({"extraction_layer_index": -1}, "its layer is -1; layers are counted from 0"),
        ({"role": "ar"}, "only av writes texts"),
        ({"extraction__injection_scale": float("inf")}, "injection_scale is inf, no length"),
        ({"extraction__injection_scale": None}, "injection_scale is None, no length"),
        ({"prompt_templates": {"av": "x"}}, "its prompt has no {injection_char}"),
        ({"tokens": {}}, "nla_meta.yaml lacks injection_char"),
        ({"tokens": 3}, "nla_meta.yaml can't be used"),
    ],
)
def test_verbalizers_that_do_not_fit_are_refused(changes, why, tiny, verbalizer):
    try:
        write_meta(verbalizer, tiny, **changes)
        refused(tiny, verbalizer, why)
    finally:
        write_meta(verbalizer, tiny)


def test_a_verbalizer_of_another_number_of_layers_than_the_model_is_refused(lm, verbalizer):
    refused(lm, verbalizer, "made for a model of 3 layers and a width of 32; smollm2-135m has 30 and 576")
