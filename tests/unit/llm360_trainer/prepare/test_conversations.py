"""Conversations become rows whose masks count the assistant's words, as CrystalChat's published rows have them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from llm360.data.rows import read_rows
from llm360.data.verify import verify_data
from llm360.errors import InputError
from llm360_trainer.prepare.conversations import Conversation, Message, parse_conversation
from llm360_trainer.prepare.fim import FimRates
from llm360_trainer.prepare.inputs import SourceSpec, check_sources
from llm360_trainer.prepare.instruct import CRYSTAL_CHAT, NAMES, UNDETERMINED, label_verdicts
from llm360_trainer.prepare.tokenize import load_tokenizer

TALKS = [
    {"messages": [("system", "be kind"), ("user", "the fox?"), ("assistant", "a lazy dog")]},
    {"text": "plain words <|im_start|> count"},
    {"messages": [("user", "jumps"), ("assistant", ""), ("user", "over"), ("assistant", "runs </s> away")]},
    {"messages": [("system", "brown"), ("assistant", "quick")]},
    {"text": ""},
]


def as_line(talk):
    messages = [{"role": role, "content": content} for role, content in talk.get("messages", [])]
    return json.dumps({"messages": messages} if messages else talk) + "\n"


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer_bytes):
    """Ids below 300 are text, then the marks; documents end in id 0."""
    tokenizer = Tokenizer.from_str(tokenizer_bytes.decode())
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in NAMES.values()])
    return tokenizer.to_str().encode()


@pytest.fixture
def talk_file(tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(as_line(talk) for talk in TALKS * 7))
    return path


def expected_ids_and_mask(tokenizer):
    """Of `TALKS`, written out by the rule."""
    ids, mask = [], []

    def add(new, counts):
        ids.extend(new)
        mask.extend([counts] * len(new))

    for talk in TALKS:
        is_plain = "text" in talk
        add([tokenizer.token_to_id("<s>")], int(is_plain))
        for role, content in talk.get("messages", [("text", talk.get("text"))]):
            words = tokenizer.encode(content, add_special_tokens=False).ids
            marks = {"system": ("<|sys_start|>", "<|sys_end|>"), "user": ("<|im_start|>", "<|im_end|>")}.get(role)
            if marks is None:
                add(words, 1)
            else:
                add([tokenizer.token_to_id(marks[0]), *words, tokenizer.token_to_id(marks[1])], 0)
        add([0], 1)
    return ids, mask


@pytest.mark.parametrize("packing", ["disjoint", "overlapping"])
@pytest.mark.parametrize("cuts", [{}, {"block_chars": 30, "run_bytes": 40}])
def test_rows_are_the_conversations_end_to_end_and_masked(prepare_here, talk_file, chat_tokenizer, packing, cuts):
    source = SourceSpec("talk", str(talk_file), chat=True)
    manifest, storage = prepare_here(
        sources=(source,), tokenizer=chat_tokenizer, packing=packing, shuffle="none", chunks=1, **cuts
    )
    ids, mask = (part * 7 for part in expected_ids_and_mask(load_tokenizer(chat_tokenizer)))
    stride = 8 if packing == "disjoint" else 7
    starts = range(0, len(ids) - 7, stride)
    rows = read_rows(storage, manifest, 0, 0, manifest.rows)
    assert rows.ids.tolist() == [ids[start : start + 8] for start in starts]
    assert rows.loss_mask.tolist() == [mask[start + 1 : start + 8] for start in starts]
    assert manifest.recipe["sources"][0]["chat"] is True
    assert verify_data(storage).ok


def test_text_beside_conversations_counts_whole(prepare_here, talk_file, write_lines, chat_tokenizer):
    sources = (SourceSpec("talk", str(talk_file), chat=True), SourceSpec("text", write_lines("a.txt", ["fox"] * 40)))
    manifest, storage = prepare_here(sources=sources, tokenizer=chat_tokenizer, chunks=1)
    rows = read_rows(storage, manifest, 0, 0, manifest.rows)
    assert rows.loss_mask[rows.source == 1].all()
    assert not rows.loss_mask[rows.source == 0].all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "is not a JSON object with a list 'messages'"),
        ({"messages": []}, "is not a JSON object with a list 'messages'"),
        ({"text": 3}, "is not a JSON object with a list 'messages'"),
        ({"messages": ["hi"]}, "has the role None in message 0; roles are system, user, assistant"),
        ({"messages": [{"role": "tool", "content": ""}]}, "has the role 'tool' in message 0"),
        ({"messages": [{"role": "user"}]}, "has no string 'content' in message 0"),
        ([("assistant", "hi")], "has the role 'assistant' in message 0, where only system or user may speak"),
        ([("user", "a"), ("user", "b")], "has the role 'user' in message 1, where only assistant may speak"),
        ([("user", "a"), ("assistant", "b"), ("system", "c")], "in message 2, where only user may speak"),
        ([("system", "a"), ("user", "b")], "ends with the words of user; only the assistant's are learned"),
    ],
)
def test_what_is_wrong_with_a_conversation_is_said(value, message):
    if isinstance(value, list) and value:
        value = json.loads(as_line({"messages": value}))
    with pytest.raises(ValueError, match=message):
        parse_conversation(value)


def test_a_line_may_be_a_plain_document():
    assert parse_conversation({"text": "a"}) == Conversation((Message("", "a"),))


def test_bad_sources_of_conversations_leave_nothing(prepare_here, talk_file, write_lines, chat_tokenizer, tmp_path):
    def refused(match, tokenizer=chat_tokenizer, **settings):
        with pytest.raises(InputError, match=match):
            prepare_here(sources=(SourceSpec("talk", **settings, chat=True),), tokenizer=tokenizer)
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]

    refused("but .*a.txt is no .jsonl file", path=write_lines("a.txt", ["x"]))
    plain = load_tokenizer(chat_tokenizer).to_str().replace("<|im_end|>", "<|other|>").encode()
    refused(r"need tokens .* but the tokenizer has no <\|im_end\|>", tokenizer=plain, path=str(talk_file))
    talk_file.write_text(as_line(TALKS[0]) + as_line({"messages": [("user", "a")]}))
    refused("talk.jsonl line 2: ends with the words of user", path=str(talk_file))
    with pytest.raises(InputError, match="source 'a' has both chat and fim"):
        check_sources([SourceSpec("a", "b", fim=FimRates(0.5, 0.5), chat=True)])


def whole_documents(row):
    """ids and mask of each document that begins and ends in a published row."""
    ids, mask = np.array([*row["token_ids"], row["label_ids"][-1]]), np.array([-1, *row["loss_mask"]])
    starts = np.flatnonzero(ids == CRYSTAL_CHAT.start)
    for start in starts:
        ends = np.flatnonzero(ids[start:] == CRYSTAL_CHAT.end)
        if len(ends):
            yield ids[start : start + ends[0] + 1].tolist(), mask[start : start + ends[0] + 1].tolist()


def messages_of(ids, tokenizer):
    """The conversation that gave a document's ids."""
    roles = {
        CRYSTAL_CHAT.system_start: "system",
        CRYSTAL_CHAT.prompt_start: "user",
        CRYSTAL_CHAT.prompt_end: "assistant",
    }
    messages, body = [], []
    for token in [*ids[1:-1], None]:
        if token is None or token in CRYSTAL_CHAT:
            if messages and "content" not in messages[-1]:
                messages[-1]["content"] = tokenizer.decode(body, skip_special_tokens=False)
            body = []
            if token in roles:
                messages.append({"role": roles[token]})
        else:
            body.append(token)
    return messages


def test_published_conversations_give_their_ids_and_masks_again(prepare_here, shared_data, tmp_path):
    """All 138 that stand whole in the 100 rows of instruct_sample.jsonl, each prepared from its messages."""
    data = (shared_data / "tokenizers/crystalcoder/tokenizer.json").read_bytes()
    lines = (shared_data / "crystal/instruct_sample.jsonl").read_text().splitlines()
    found = [document for line in lines for document in whole_documents(json.loads(line))]
    assert len(found) == 138
    talks = [{"messages": messages_of(ids, load_tokenizer(data))} for ids, _ in found]
    Path(tmp_path / "talk.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    source = SourceSpec("talk", str(tmp_path / "talk.jsonl"), chat=True)
    ids, mask = (list(itertools.chain.from_iterable(part)) for part in zip(*found, strict=True))
    rows = {"sequence_length": 2048, "packing": "overlapping", "shuffle": "none", "chunks": 1}
    manifest, storage = prepare_here(sources=(source,), tokenizer=data, **rows)
    prepared = read_rows(storage, manifest, 0, 0, manifest.rows)
    places = np.arange(manifest.rows)[:, None] * 2048 + np.arange(2049)
    assert manifest.sources[0].tokens == len(ids)
    assert np.array_equal(prepared.ids, np.array(ids)[places])
    published = np.array(mask)[places[:, 1:]]
    # A document's first id is a label of the row before it; whether it counts there is known, not published here.
    known = published >= 0
    assert np.array_equal(prepared.loss_mask[known], published[known])


def test_masks_of_published_rows_follow_from_their_ids_wherever_these_tell(shared_data):
    """77 of the 100 rows tell all of their mask; the other 23 lie inside one document and tell nothing."""
    lines = (shared_data / "crystal/instruct_sample.jsonl").read_text().splitlines()
    told = {True: 0, False: 0}
    for row in map(json.loads, lines):
        verdicts = label_verdicts(np.array([*row["token_ids"], row["label_ids"][-1]]))
        known = verdicts != UNDETERMINED
        assert np.array_equal(verdicts[known], np.array(row["loss_mask"])[known])
        assert known.all() or not known.any()
        told[bool(known.all())] += 1
    assert told == {True: 77, False: 23}
