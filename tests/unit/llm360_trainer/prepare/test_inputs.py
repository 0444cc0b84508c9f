import base64
import gzip
import http.server
import pickle
import threading
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm360.errors import InputError
from llm360_trainer.prepare.documents import read_piece
from llm360_trainer.prepare.inputs import SourceSpec, check_sources, digest_files, find_files, parse_source, plan_splits


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("a=b", SourceSpec("a", "b")),
        ("a=b:0.3", SourceSpec("a", "b", Fraction(3, 10))),
        ("a=b:2", SourceSpec("a", "b", Fraction(2))),
        ("a=b/c*.txt:1e-2", SourceSpec("a", "b/c*.txt", Fraction(1, 100))),
        ("a=s3://bucket/x", SourceSpec("a", "s3://bucket/x")),
        ("a=s3://bucket/x:1", SourceSpec("a", "s3://bucket/x", Fraction(1))),
        ("a=odd:name.txt", SourceSpec("a", "odd:name.txt")),
        ("a=b=c", SourceSpec("a", "b=c")),
        ("a=b:3x", SourceSpec("a", "b", times=Fraction(3))),
        ("a=s3://bucket/x:0.3:0.5x", SourceSpec("a", "s3://bucket/x", Fraction(3, 10), times=Fraction(1, 2))),
        ("a=odd:box", SourceSpec("a", "odd:box")),
    ],
)
def test_source_is_name_path_and_weight(given_text, expected):
    assert parse_source(given_text) == expected


@pytest.mark.parametrize("wrong", ["", "a", "=b", "a=", "a=b:0", "a=b:-1", "a=b:0x", "a=b:2.5x"])
def test_source_without_its_parts_is_refused(wrong):
    with pytest.raises(InputError):
        parse_source(wrong)


@pytest.mark.parametrize(
    ("sources", "named"), [([], "no source"), (["a=x", "a=y"], "two sources"), (["a=x:1", "b=y"], "sources b have no")]
)
def test_sources_that_cannot_stand_together_are_refused(sources, named):
    with pytest.raises(InputError, match=named):
        check_sources([parse_source(source) for source in sources])


@pytest.fixture
def tree(tmp_path):
    for name in ("b.txt", "a.jsonl", "deep/c.txt", "deep/er/d.txt", "notes.md", "odd [1].txt"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")
    (tmp_path / "tree" / "empty.txt").touch()
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("", ["a.jsonl", "b.txt", "deep/c.txt", "deep/er/d.txt", "odd [1].txt"]),
        ("b.txt", ["b.txt"]),
        ("odd [1].txt", ["odd [1].txt"]),
        ("*.txt", ["b.txt", "odd [1].txt"]),
        ("**/*.txt", ["b.txt", "deep/c.txt", "deep/er/d.txt", "odd [1].txt"]),
        ("deep/*.txt", ["c.txt"]),
        ("de*/?.txt", ["deep/c.txt"]),
        ("deep", ["c.txt", "er/d.txt"]),
    ],
)
def test_file_folder_and_glob_name_files_in_order(tree, path, keys):
    assert [file.key for file in find_files(f"{tree}/{path}")] == keys


def test_relative_paths_count_from_the_working_folder(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [file.key for file in find_files("b.txt")] == ["b.txt"]
    assert len(find_files(".")) == 5


@pytest.mark.parametrize("path", ["nothing", "*.csv", "nothing/*.txt"])
def test_path_without_input_is_refused(tree, path):
    with pytest.raises(InputError, match="no input at"):
        find_files(f"{tree}/{path}")


@pytest.mark.parametrize("path", ["notes.md", "*.md"])
def test_named_file_of_no_known_kind_is_refused(tree, path):
    with pytest.raises(InputError, match=r"notes\.md is of no known kind"):
        find_files(f"{tree}/{path}")


@pytest.fixture
def guarded():
    """Address of a web server with `a.txt`, which wants a name and password."""
    data = b"".join(b"text %d of many\n" % number for number in range(60))
    wanted = "Basic " + base64.b64encode(b"reader:hush").decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status = 401 if self.headers["Authorization"] != wanted else 200 if self.path == "/x/a.txt" else 404
            self.send_response(status)
            self.send_header("Content-Length", str(len(data) if status == 200 else 0))
            self.end_headers()
            if status == 200 and self.command == "GET":
                self.wfile.write(data)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    yield f"127.0.0.1:{server.server_port}/x"
    server.shutdown()
    server.server_close()


def test_a_source_behind_a_password_is_read_and_the_password_shown_nowhere(guarded, prepare_here):
    (file,) = find_files(f"http://reader:hush@{guarded}/a.txt")
    assert pickle.loads(pickle.dumps(file)).store.get("a.txt").startswith(b"text 0 of many\n")
    assert file.label == f"http://{guarded}/a.txt"
    assert "hush" not in repr(file)
    said = []
    manifest, storage = prepare_here(f"a=http://reader:hush@{guarded}/a.txt", say=said.append)
    assert manifest.sources[0].documents == 60
    assert "hush" not in str(said)
    assert not [info.key for info in storage.list() if b"hush" in storage.get(info.key)]


def test_sentences_of_sources_have_no_password(guarded):
    with pytest.raises(InputError, match="read from 1 folders below http://127") as caught:
        SourceSpec("a", f"http://reader:hush@{guarded}/a.txt", folders=("b",)).files()
    assert "hush" not in caught.value.message
    for text in ("http://reader:hush@host/a.txt", "=http://reader:hush@host/a.txt"):
        with pytest.raises(InputError, match=r"source '=?http://host/a\.txt' is not NAME=PATH") as caught:
            parse_source(text)


def test_digest_follows_contents_and_names_only(tree):
    first = digest_files(find_files(str(tree)))
    (tree / "b.txt").write_text("y\n")
    assert digest_files(find_files(str(tree))) != first
    (tree / "b.txt").write_text("x\n")
    assert digest_files(find_files(str(tree))) == first


def documents(path, txt_document="line", split_bytes=64):
    splits = plan_splits([find_files(str(path))], txt_document, split_bytes)
    assert [split.index for split in splits] == list(range(len(splits)))
    return [text for split in splits for piece in split.pieces for text in read_piece(piece, txt_document)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=12), max_size=12),
    ends_in_newline=st.booleans(),
    split_bytes=st.integers(1, 40),
)
def test_splits_give_every_line_once_wherever_they_cut(tmp_path, lines, ends_in_newline, split_bytes):
    data = "".join(f"{line}\n" for line in lines).encode()
    data = data if ends_in_newline else data.removesuffix(b"\n")
    expected = data.decode().split("\n")
    expected = expected[:-1] if expected[-1] == "" else expected
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    if data:
        assert documents(path, split_bytes=split_bytes) == expected


def test_line_keeps_its_spaces_and_loses_only_its_newline(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"  two \r\n\n\tthree\xc2\xa0")
    assert documents(tmp_path / "a.txt") == ["  two ", "", "\tthree\xa0"]


def test_whole_files_are_documents_when_asked(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n")
    (tmp_path / "b.txt").write_bytes(b"three")
    assert documents(tmp_path, "file") == ["one\ntwo\n", "three"]


TEXTS = ["one", "", "zwei\nlines", "日本", " spaces  "]


def test_all_kinds_give_the_same_documents(tmp_path):
    import json

    lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(TEXTS)).encode()
    (tmp_path / "a.jsonl").write_bytes(lines + b"\n  \n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines[:30]) + gzip.compress(lines[30:]))
    frames = zstandard.ZstdCompressor()
    (tmp_path / "c.jsonl.zst").write_bytes(frames.compress(lines[:40]) + frames.compress(lines[40:]))
    pq.write_table(pa.table({"text": TEXTS, "id": range(5)}), tmp_path / "d.parquet", row_group_size=2)
    pq.write_table(pa.table({"text": pa.array(TEXTS, pa.large_string())}), tmp_path / "e.parquet", compression="zstd")
    assert documents(tmp_path) == TEXTS * 5


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl line 2: is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n[1]\n', r"a\.jsonl line 3: is not a JSON object with a member 'text'"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: is not a JSON object with a member 'text' that is a string"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "line 1: is "),
        ("a.txt", b"fine\n" * 40 + b"b\xe9d\n", r"a\.txt line 41: is not UTF-8 \(byte 0xe9 at column 2\)"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99)[:-9], "cannot be decompressed"),
        ("a.jsonl.gz", b"plain", "cannot be decompressed"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n{}\n'), r"a\.jsonl\.gz line 2"),
        ("a.jsonl.zst", b"plain", "cannot be decompressed"),
        ("a.parquet", b"plain", "is not a readable Parquet file"),
    ],
)
def test_bad_content_is_named_with_its_place(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        documents(tmp_path / name)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"body": ["x"]}), "no column 'text' of strings; its columns are body"),
        (pa.table({"text": [1]}), "no column 'text' of strings"),
        (pa.table({"text": ["x", "y", None]}), "row 2 has no text"),
    ],
)
def test_parquet_without_text_is_refused(tmp_path, table, message):
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    with pytest.raises(InputError, match=message):
        documents(tmp_path / "a.parquet")
