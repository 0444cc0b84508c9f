"""The rule of loss masks, on rows made by hand and on marks and masks of a published row."""

import numpy as np
import pytest

from llm360_trainer.prepare.instruct import UNDETERMINED, ChatTokens, label_verdicts

S, E, PROMPT, ANSWER, SYSTEM, SYSTEM_END = ChatTokens()
X = 7


def verdicts(*ids):
    return label_verdicts(np.array(ids)).tolist()


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        # <s> <|sys_start|> system <|sys_end|> <|im_start|> prompt <|im_end|> answer answer </s>
        ((S, SYSTEM, X, SYSTEM_END, PROMPT, X, ANSWER, X, X, E), [0, 0, 0, 0, 0, 0, 1, 1, 1]),
        # A second prompt, and an answer that the row cuts off.
        ((S, SYSTEM, X, SYSTEM_END, PROMPT, X, ANSWER, X, PROMPT, X, ANSWER, X), [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
        # An answer at once after the system's words.
        ((S, SYSTEM, X, SYSTEM_END, X, X, E), [0, 0, 0, 1, 1, 1]),
        # A plain document, whose beginning counts too, and then a conversation, whose beginning does not.
        ((X, X, E, S, X, X, E, S, SYSTEM, X), [1, 1, 1, 1, 1, 1, 0, 0, 0]),
        # Rows that begin inside a prompt, in the system's words, in an answer before a second prompt.
        ((X, X, ANSWER, X, E), [0, 0, 1, 1]),
        ((X, X, SYSTEM_END, PROMPT, X), [0, 0, 0, 0]),
        ((X, X, PROMPT, X), [1, 0, 0]),
        # Nothing tells.
        ((X, X, X), [UNDETERMINED, UNDETERMINED]),
        # What kind of document begins with the last label is in the next row.
        ((X, E, S), [1, UNDETERMINED]),
    ],
)
def test_answers_and_plain_documents_count(ids, expected):
    assert verdicts(*ids) == expected


def test_marks_of_a_published_row_give_its_mask():
    """Row 0 of instruct_sample.jsonl (crystalcoder-train at 03efa54): its marks, and where its mask changes."""
    ids = np.full(2049, X)
    for document in (112, 664, 919, 1057, 1155, 2032):
        ids[document : document + 3] = (E, S, SYSTEM)
    for answer in (198, 888, 987, 1150, 1882):
        ids[answer] = ANSWER
    expected = np.ones(2048, np.int8)
    for start, stop in ((112, 198), (664, 888), (919, 987), (1057, 1150), (1155, 1882), (2032, 2048)):
        expected[start:stop] = 0
    assert np.array_equal(label_verdicts(ids), expected)
