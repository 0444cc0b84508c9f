"""Reading the documents of one piece of an input file, in order, with bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from llm360.data.rows import StorageFile
from llm360.errors import InputError
from llm360.storage import Storage
from llm360_trainer.prepare.conversations import Document, parse_conversation, text_of

if TYPE_CHECKING:
    from llm360_trainer.prepare.inputs import InputFile, Piece

# Bytes of one read ahead.
READ_BYTES = 4 * 2**20
# Rows decoded at a time from a Parquet file.
PARQUET_ROWS = 1024


def read_piece(piece: Piece, txt_document: str) -> Iterator[Document]:
    """The documents of a piece.

    A line belongs to the piece in which it begins, so pieces that tile a file give each line once.

    Args:
        piece: What to read.
        txt_document: `line` or `file`, for `.txt`.

    Raises:
        InputError: the content is not what the file's kind promises; names the file and the line or row.
    """
    storage = piece.file.store
    if piece.file.kind == "parquet":
        return _parquet_texts(piece)
    if piece.file.kind == "txt" and txt_document == "file":
        return iter([_decode(storage.get(piece.file.key), piece.file.label)])
    if piece.file.compression:
        return _compressed_documents(piece)
    return _line_documents(storage, piece)


def num_row_groups(file: InputFile) -> int:
    """Row groups of a Parquet file.

    Raises:
        InputError: it is not a Parquet file, or has no column `text` of strings.
    """
    with _open_parquet(file) as opened:
        return opened.num_row_groups


def _line_documents(storage: Storage, piece: Piece) -> Iterator[Document]:
    with io.BufferedReader(StorageFile(storage, piece.file.key), READ_BYTES) as reader:
        position = piece.start
        if position:
            # A line that began before belongs to the piece before, unless it ends exactly here.
            reader.seek(position - 1)
            position += len(reader.readline()) - 1
        while position < piece.stop and (line := reader.readline()):
            try:
                document = _document_of_line(line, piece.file.kind)
            except ValueError as error:
                number = _lines_before(storage, piece.file.key, position) + 1
                raise InputError(f"{piece.file.label} line {number}: {error}") from error
            if document is not None:
                yield document
            position += len(line)


def _lines_before(storage: Storage, key: str, position: int) -> int:
    """Lines that end before a byte of a file."""
    lines = 0
    for data in storage.iter_bytes(key):
        lines += data[:position].count(b"\n")
        position -= min(position, len(data))
        if position == 0:
            break
    return lines


def _compressed_documents(piece: Piece) -> Iterator[Document]:
    for number, line in enumerate(whole_lines(piece.file), start=1):
        try:
            document = _document_of_line(line, piece.file.kind)
        except ValueError as error:
            raise InputError(f"{piece.file.label} line {number}: {error}") from error
        if document is not None:
            yield document


def whole_lines(file: InputFile) -> Iterator[bytes]:
    """The lines of a file, decompressed if need be, with their ends.

    Raises:
        InputError: the file cannot be decompressed.
    """
    with io.BufferedReader(StorageFile(file.store, file.key), READ_BYTES) as raw:
        stream: IO[bytes] = raw
        if file.compression == "gz":
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
        elif file.compression == "zst":
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            stream = io.BufferedReader(reader, READ_BYTES)
        try:
            yield from stream
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise InputError(f"{file.label} cannot be decompressed: {error}; is it complete?") from error


def _document_of_line(line: bytes, kind: str) -> Document | None:
    """The document of a line, None for a line of a `.jsonl` file that holds nothing.

    Raises:
        ValueError: the line is not UTF-8, or not a JSON object with a string `text`, or a conversation where the kind
            is one.
    """
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if kind == "txt":
        return _decode_line(line)
    if not line.strip():
        return None
    try:
        value = json.loads(_decode_line(line))
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("is JSON nested too deeply") from error
    document = parse_conversation(value) if kind == "chat" else _member_text(value)
    try:
        text_of(document).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has a text with half a surrogate pair at character {error.start}") from error
    return document


def _member_text(value: object) -> str:
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise ValueError("is not a JSON object with a member 'text' that is a string")
    return text


def _decode_line(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1})") from error


def _decode(data: bytes, label: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{label} is not UTF-8 (byte {data[error.start]:#04x} at offset {error.start})") from error


@contextlib.contextmanager
def _open_parquet(file: InputFile) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(cast("IO[bytes]", StorageFile(file.store, file.key))) as opened:
            schema = opened.schema_arrow
            if "text" not in schema.names or schema.field("text").type not in (pa.string(), pa.large_string()):
                raise InputError(
                    f"{file.label} has no column 'text' of strings; its columns are {', '.join(schema.names)}"
                )
            yield opened
    except pa.ArrowInvalid as error:
        raise InputError(f"{file.label} is not a readable Parquet file: {error}") from error


def _parquet_texts(piece: Piece) -> Iterator[str]:
    with _open_parquet(piece.file) as file:
        row = sum(file.metadata.row_group(group).num_rows for group in range(piece.start))
        groups = list(range(piece.start, piece.stop))
        for batch in file.iter_batches(PARQUET_ROWS, row_groups=groups, columns=["text"], use_threads=False):
            for text in batch.column("text").to_pylist():
                if text is None:
                    raise InputError(f"{piece.file.label} row {row} has no text; remove the row or fill it")
                yield text
                row += 1
