"""Tiny data sets of the schema of those that the harness's tasks take from the hub; every question was made up here."""

from __future__ import annotations

from collections.abc import Iterable

import datasets
from datasets import ClassLabel, Features, Sequence, Value

from llm360.storage import Storage
from llm360_trainer.evaluate.mirror import DataName, write_dataset

TEXT = Value("string")
WORDS = ("red", "green", "blue", "white", "black", "one", "two", "three", "four", "five", "six")
MMLU_STEM = (
    "abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry", "college_computer_science",
    "college_mathematics", "college_physics", "computer_security", "conceptual_physics", "electrical_engineering",
    "elementary_mathematics", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
    "high_school_mathematics", "high_school_physics", "high_school_statistics", "machine_learning",
)  # fmt: skip


def words(number: int, count: int) -> str:
    return " ".join(WORDS[(number * 7 + place * (1 + number % 3)) % len(WORDS)] for place in range(count))


def arc(numbers: Iterable[int]) -> datasets.Dataset:
    features = Features(id=TEXT, question=TEXT, choices=Sequence({"text": TEXT, "label": TEXT}), answerKey=TEXT)
    rows = [
        {
            "id": f"made-{n}",
            "question": f"What follows {words(n, 3 + n % 4)}?",
            "choices": {"text": [words(n + c, 1 + (n + c) % 3) for c in range(4)], "label": list("ABCD")},
            "answerKey": "ABCD"[n % 4],
        }
        for n in numbers
    ]
    return datasets.Dataset.from_list(rows, features)


def hellaswag(numbers: Iterable[int], answered: bool = True) -> datasets.Dataset:
    rows = [
        {
            "ind": n,
            "activity_label": "Counting colours",
            "ctx_a": f"A child counts {words(n, 4)}.",
            "ctx_b": "then she",
            "ctx": f"A child counts {words(n, 4)}. then she",
            "endings": [f"says {words(n + c, 3)} [title] and stops." for c in range(4)],
            "source_id": f"made~{n}",
            "split": "made",
            "split_type": "indomain",
            "label": str(n % 4) if answered else "",
        }
        for n in numbers
    ]
    return datasets.Dataset.from_list(rows)


def truthful(numbers: Iterable[int]) -> datasets.Dataset:
    targets = {"choices": Sequence(TEXT), "labels": Sequence(Value("int32"))}
    rows = [
        {
            "question": f"Is {words(n, 2)} a colour?",
            "mc1_targets": {"choices": [words(n + c, 2) for c in range(3)], "labels": [1, 0, 0]},
            "mc2_targets": {"choices": [words(n + c, 2) for c in range(5)], "labels": [1, 1, 0, 0, 0]},
        }
        for n in numbers
    ]
    return datasets.Dataset.from_list(rows, Features(question=TEXT, mc1_targets=targets, mc2_targets=targets))


def mmlu(subject: str, numbers: Iterable[int]) -> datasets.Dataset:
    features = Features(
        question=TEXT, subject=TEXT, choices=Sequence(TEXT), answer=ClassLabel(names=["A", "B", "C", "D"])
    )
    rows = [
        {
            "question": f"Which of these is {words(n, 2)}?",
            "subject": subject,
            "choices": [words(n + c, 2) for c in range(4)],
            "answer": n % 4,
        }
        for n in numbers
    ]
    return datasets.Dataset.from_list(rows, features)


def documents(numbers: Iterable[int]) -> datasets.Dataset:
    return datasets.Dataset.from_list([{"page": f" = {words(n, 2)} = \n {words(n, 40 * n + 5)} . \n"} for n in numbers])


def sums(numbers: Iterable[int]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{"question": f"What is {n} and {n}?", "answer": f"Twice {n}.\n#### {2 * n}"} for n in numbers]
    )


def programs(numbers: Iterable[int]) -> datasets.Dataset:
    rows = [
        {
            "task_id": f"made/{n}",
            "prompt": f'def plus_{n}(x):\n    """Add {n}."""\n',
            "canonical_solution": f"    return x + {n}\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n",
            "entry_point": f"plus_{n}",
        }
        for n in numbers
    ]
    return datasets.Dataset.from_list(rows)


def pairs(numbers: Iterable[int]) -> datasets.Dataset:
    rows = [
        {
            "id": n,
            "sent_more": f"The {words(n, 2)} one counts.",
            "sent_less": f"The {words(n + 1, 3)} one counts.",
            "stereo_antistereo": n % 2,
            "bias_type": n % 9,
        }
        for n in numbers
    ]
    return datasets.Dataset.from_list(rows)


def statements(numbers: Iterable[int]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{"text": f"All {words(n, 3)} are alike.", "toxicity_ai": 1.0 + n, "toxicity_human": n / 2} for n in numbers]
    )


def all_data() -> dict[DataName, dict[str, datasets.Dataset]]:
    """Every set, by what the tasks ask for."""
    data = {
        DataName(path="allenai/ai2_arc", config=config): {
            "train": arc(range(100, 130)),
            "validation": arc(range(200, 204)),
            "test": arc(range(count)),
        }
        for config, count in (("ARC-Easy", 9), ("ARC-Challenge", 7))
    }
    data[DataName(path="Rowan/hellaswag")] = {
        "train": hellaswag(range(100, 115)),
        "validation": hellaswag(range(6)),
        "test": hellaswag(range(50, 52), answered=False),
    }
    data[DataName(path="truthfulqa/truthful_qa", config="multiple_choice")] = {"validation": truthful(range(6))}
    for index, subject in enumerate(MMLU_STEM):
        data[DataName(path="cais/mmlu", config=subject)] = {
            "test": mmlu(subject, range(index, index + 2 + index % 2)),
            "validation": mmlu(subject, range(60, 61)),
            "dev": mmlu(subject, range(70, 75)),
        }
    data[DataName(path="EleutherAI/wikitext_document_level", config="wikitext-2-raw-v1")] = {
        split: documents(range(2)) for split in ("train", "validation", "test")
    }
    data[DataName(path="openai/gsm8k", config="main")] = {"train": sums(range(10, 20)), "test": sums(range(3))}
    data[DataName(path="jannalu/crows_pairs_multilingual", config="english")] = {"test": pairs(range(6))}
    data[DataName(path="skg/toxigen-data", config="annotated")] = {
        "train": statements(range(20, 24)),
        "test": statements(range(6)),
    }
    data[DataName(path="openai/openai_humaneval")] = {"test": programs(range(1, 5))}
    return data


def fill_mirror(mirror: Storage) -> Storage:
    """A mirror of every set."""
    for name, splits in all_data().items():
        write_dataset(mirror, name, splits)
    return mirror
