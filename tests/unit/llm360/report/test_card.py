"""The card of an exported checkpoint: what it says is the release's, and no text of it is taken for markup."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from markdown_it import MarkdownIt
from synthetic.described import described_release
from synthetic.measured import evaluate
from synthetic.release import SyntheticRelease

from llm360.canonical import canonical_json, sha256_digest
from llm360.release.checkpoint import TensorRecord, load_checkpoint_manifest
from llm360.release.create import load_config, open_release
from llm360.release.history import History
from llm360.release.layout import config_key
from llm360.release.selection import find_checkpoint
from llm360.release.weights import WeightsManifest
from llm360.report.card import ExportedModel, model_card
from llm360.report.facts import read_stage_data
from llm360.storage import open_storage

DIGEST = sha256_digest(b"files")
MODEL = ExportedModel("LlamaForCausalLM", has_own_code=False, weights="float32", has_tokenizer=True)
WORDS = {
    "license": "CC-BY-4.0",
    "authors": ["Ada Lovelace", "Charles <i>Babbage</i>"],
    "description": 'Trained on *books*: "it\'s" <b>bold</b> | so\n---\nlicense: mit\n---\n\n# Not a heading\n'
    "- [no](http://x) list",
}


def write_card(
    run: SyntheticRelease, label: str = "ckpt_001", model: ExportedModel = MODEL, storage=None, history=None
) -> str:
    history = history or open_release(run.storage).history()
    checkpoint = find_checkpoint(history, label)
    manifest = load_checkpoint_manifest(run.storage, checkpoint.body.prefix, checkpoint.body.digests.manifest)
    return model_card(storage or run.storage, history, checkpoint, manifest, model)


def fields_of(card: str) -> dict[str, object]:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def page_of(card: str) -> str:
    """The text after the fields as HTML."""
    return MarkdownIt("commonmark").enable("table").render(card.split("\n---\n", 1)[1])


def rows_of(card: str) -> dict[str, str]:
    """First cell to second, of all tables."""
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page_of(card), re.DOTALL)]
    return {row[0]: row[1] for row in cells if row}


@pytest.fixture
def described(storage):
    return described_release(storage, WORDS)


def test_the_hubs_fields(described):
    assert fields_of(write_card(described)) == {
        "license": "cc-by-4.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["llm360"],
    }


def test_words_are_shown_as_they_were_written(described):
    card = write_card(described)
    page = page_of(card)
    assert "<p>Trained on *books*: &quot;it's&quot; &lt;b&gt;bold&lt;/b&gt; | so\n---\nlicense: mit\n---</p>" in page
    assert "<p># Not a heading\n- [no](http://x) list</p>" in page
    assert rows_of(card)["Authors"] == "Ada Lovelace, Charles &lt;i&gt;Babbage&lt;/i&gt;"
    assert rows_of(card)["Licence"] == "CC-BY-4.0"


def test_who_states_no_words_has_none(storage):
    card = write_card(described_release(storage, {"authors": []}))
    assert "license" not in fields_of(card)
    assert not {"Authors", "Licence"} & rows_of(card).keys()
    assert "LLM360" not in card


def test_facts_are_those_of_the_checkpoint(described):
    rows = rows_of(write_card(described, "ckpt_000"))
    assert rows["Step"] == "10 of 30"
    assert rows["Tokens seen"] == "20,480 of 61,440"
    assert rows["Parameters"] == "16"
    assert rows["Architecture"] == "<code>LlamaForCausalLM</code>"
    assert rows["Sizes"] == "4 layers of width 128, MLP 344, 4 heads, 4,096 token ids, 128 positions"
    assert rows["Optimizer"] == "AdamW, beta 0.9 and 0.95, epsilon 1e-08, weight decay 0.1"
    assert (rows["Precision"], rows["Deterministic"], rows["Gradient clip"]) == ("fp32", "yes", "norm 1")
    assert "| stage1 | 10 of 30 | 16 | 2,048 | warm-up of 20 steps, cosine from" in write_card(described, "ckpt_000")


def test_settings_that_are_not_usual(storage):
    run = described_release(
        storage,
        {},
        "training.optimizer.matrixLearningRateMultiplier=0.5",
        "training.optimizer.weightDecayOn=matrices",
        "training.schedule.kind=constant",
        "training.schedule.warmupSteps=0",
        "training.gradientClip=null",
        "model.numKeyValueHeads=2",
    )
    card = write_card(run)
    rows = rows_of(card)
    assert rows["Optimizer"].endswith(
        "weight decay 0.1 on matrices alone, learning rate of the blocks' matrices times 0.5"
    )
    assert "Gradient clip" not in rows
    assert "4 heads, 2 for keys and values," in rows["Sizes"]
    assert "| 2,048 | constant 0.002 |" in card


def test_a_configuration_of_another_version_leaves_its_lines_out(interrupted):
    card = write_card(interrupted)
    assert rows_of(card)["Preset"] == "amber-tiny"
    assert not {"Sizes", "Optimizer"} & rows_of(card).keys()
    assert rows_of(card)["Step"] == "100 of 400"


def test_what_was_never_configured_has_no_table(interrupted):
    bare = canonical_json({"data": {}})
    interrupted.storage.put(config_key(sha256_digest(bare)), bare)
    history = History.from_entries(interrupted.entries)
    history.config_digest, history.stages = sha256_digest(bare), []
    assert "## Training" not in write_card(interrupted, history=history)


def test_data_is_named_with_its_digests(described):
    card = write_card(described)
    assert f"| stage1 | data/stage1 | `{described.manifest}` | `sha256:{'b' * 64}` |" in card
    rows = sum(described.order.chunk_rows)
    assert f"| stage1 | docs | 40 | {rows // 3:,} | {rows // 3 * 128:,} | {rows // 3 / rows:.1%} |" in card


def test_a_run_that_promises_no_bits_is_not_said_to_give_the_same(described, monkeypatch):
    assert "trained anew: the same bits" in write_card(described)
    identity = load_config(described.storage, described.config) | {"training": {}}
    monkeypatch.setattr("llm360.report.card.load_config", lambda *_: identity)
    assert "trained anew: losses that agree closely" in write_card(described)


@pytest.mark.parametrize(
    ("sources", "recipe", "shown"),
    [
        (2, {"sources": [{"name": "code", "digest": DIGEST}, {"name": "docs"}, 5]}, ["code"]),
        (1, {"command": "import", "digest": DIGEST}, ["docs"]),
        (2, {"command": "import", "digest": DIGEST}, []),
        (2, {"sources": {"docs": DIGEST}}, []),
        (1, {"digest": "`"}, []),
    ],
)
def test_sources_are_bound_by_the_digests_of_their_files(described, monkeypatch, sources, recipe, shown):
    def read(storage, stage):
        manifest = read_stage_data(storage, stage)
        return manifest.model_copy(update={"recipe": recipe, "sources": manifest.sources[:sources]})

    monkeypatch.setattr("llm360.report.card.read_stage_data", read)
    rows = re.findall(
        rf"\| stage1 \| (\w+) \| 40 \| [\d,]+ \| [\d,]+ \| [\d.]+% \| `{DIGEST}` \|", write_card(described)
    )
    assert rows == shown


def test_data_elsewhere_is_named_without_password_and_without_folders_of_a_machine(described, monkeypatch):
    for place, shown in [("https://ada:secret@host/d|1", r"https://host/d\|1"), ("file:///home/ada/data", "")]:
        entries = [
            entry if entry.kind != "stage" else replace(entry, body=entry.body.model_copy(update={"data": place}))
            for entry in described.entries
        ]
        monkeypatch.setattr("llm360.report.card.read_stage_data", lambda *_: "not here")
        card = write_card(described, history=History.from_entries(entries))
        assert f"| stage1 | {shown} | `{described.manifest}` |  |" in card
        assert "secret" not in card


def test_data_that_cannot_be_read_costs_what_it_says_alone(described):
    described.storage.delete("data/stage1/manifest.json")
    card = write_card(described)
    assert f"| stage1 | data/stage1 | `{described.manifest}` |  |" in card
    assert "| docs |" not in card


def test_the_untrained_model_has_seen_no_data(described):
    card = write_card(described, "init")
    assert rows_of(card)["Tokens seen"] == "0 of 61,440"
    assert "## Data" not in card
    assert "| stage1 |" not in card


def test_scores_are_those_of_the_checkpoint_with_what_gave_them(described):
    first, second = [entry for entry in described.entries if entry.kind == "checkpoint"][1:]
    evaluate(described, first, "arc_easy", 0.25)
    assert "## Evaluation" not in write_card(described)
    evaluate(described, second, "arc_easy", 0.5)
    evaluate(described, second, "piqa", 0.75, limit=100, seed=3, shots=None)
    card = write_card(described)
    assert "| arc_easy | acc_norm | 25 | 0.5000 ± 0.0100 | lm-eval 0.4.9 |" in card
    assert "| piqa | acc_norm |  | 0.7500 ± 0.0100 | lm-eval 0.4.9, 100 samples, seed 3 |" in card
    assert "0.2500" not in card


def test_it_says_how_to_check_it(described):
    checkpoint = described.entries[-1]
    evaluate(described, checkpoint, "piqa", 0.75)
    head = described.entries[-1]
    card = write_card(described)
    rows = rows_of(card)
    assert rows["Checkpoint's ledger entry"] == f"{checkpoint.seq}, <code>{checkpoint.name}</code>"
    assert rows["Ledger's head at the export"] == f"{head.seq}, <code>{head.name}</code>"
    assert rows["Checkpoint's model digest"] == f"<code>{checkpoint.body.digests.model}</code>"
    assert rows["Configuration's digest"] == f"<code>{described.config}</code>"
    assert f"\nllm360 verify RELEASE --head {head.name}\n" in card
    assert "\nllm360 replay RELEASE --checkpoint ckpt_001\n" in card
    assert str(described.storage.uri).removeprefix("file://") not in card, "a folder of the exporter's machine"


def test_an_address_is_told_without_its_password_and_quoted_for_a_shell(described):
    web = SimpleNamespace(
        uri="https://ada:secret@host/a;b", at=described.storage.at, get=described.storage.get,
        options=described.storage.options,
    )  # fmt: skip
    card = write_card(described, storage=web)
    assert "secret" not in card
    assert "# a;b, ckpt_001" in card
    assert rows_of(card)["Release"] == "https://host/a;b"
    assert "\nllm360 replay 'https://host/a;b' --checkpoint ckpt_001\n" in card
    web.uri = "https://ada:secret@host"
    assert "# host, ckpt_001" in write_card(described, storage=web)


def test_no_tokenizer_and_code_of_its_own(described):
    card = write_card(described, model=ExportedModel("X", has_own_code=True, weights="float32", has_tokenizer=False))
    assert "AutoTokenizer" not in card
    assert 'from_pretrained(name, dtype="auto", trust_remote_code=True)' in card
    assert "AutoTokenizer.from_pretrained(name)" in write_card(described)


@pytest.mark.parametrize(
    ("source", "base"),
    [("models--EleutherAI--pythia-70m/snapshots/a", "EleutherAI/pythia-70m"), ("models/pythia", None), (None, None)],
)
def test_weights_that_it_began_with(storage, tmp_path, source, base):
    tensor = TensorRecord(name="w", file="w.safetensors", dtype="F32", shape=(1,), sha256=sha256_digest(b""))
    manifest = WeightsManifest(
        source=source or "gone", form="llama", model={}, tensors=(tensor,), model_digest=tensor.sha256
    ).encode()
    weights = open_storage(str(tmp_path / "weights"))
    if source is not None:
        weights.put("manifest.json", manifest)
    digest = sha256_digest(manifest)
    run = described_release(storage, {}, f"model.weights.uri={weights.uri}", f"model.weights.digest={digest}")
    card = write_card(run)
    assert fields_of(card).get("base_model") == base
    assert rows_of(card)["Began with"] == (f"{base}, " if base else "") + (
        f"imported weights with the manifest <code>{digest}</code>"
    )
