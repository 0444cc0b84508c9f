"""Preparation from and into a bucket gives the bytes that a folder gives."""

import contextlib
from fractions import Fraction

from llm360.data.verify import verify_data
from llm360.storage import StorageOptions, open_storage
from llm360_trainer.prepare.inputs import SourceSpec
from llm360_trainer.prepare.pipeline import prepare
from llm360_trainer.prepare.runner import InProcess
from llm360_trainer.prepare.settings import PrepareSettings


def test_bucket_and_folder_give_the_same_data(corpus, contents, tmp_path, s3_bucket):
    uri, options = s3_bucket.uri, s3_bucket.options
    bucket = open_storage(uri, options)
    for path in corpus.glob("*.*"):
        bucket.at("input").put(path.name, path.read_bytes())

    def make(inputs, input_options, output):
        settings = PrepareSettings(
            sources=(
                SourceSpec("a", f"{inputs}/a.txt", Fraction(1), input_options),
                SourceSpec("b", f"{inputs}/b*.jsonl", Fraction(2), input_options),
            ),
            tokenizer=(corpus / "tokenizer.json").read_bytes(),
            sequence_length=32,
            chunks=3,
            seed=9,
        )
        return prepare(settings, output, session=lambda: contextlib.nullcontext(InProcess()), run_bytes=20_000)

    from_folder = make(corpus, StorageOptions(), open_storage(str(tmp_path)))
    from_bucket = make(f"{uri}/input", options, bucket.at("output"))
    assert from_bucket == from_folder
    assert contents(f"{uri}/output", options) == contents(tmp_path)
    assert verify_data(bucket.at("output")).ok
