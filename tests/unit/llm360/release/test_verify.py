"""A sound release verifies; what was pruned, passed over or is still to come is understood."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator

import pytest

from llm360.canonical import sha256_digest
from llm360.cli.main import run as command
from llm360.errors import InputError, StorageUnavailableError, StoreUnusableError
from llm360.release.create import open_release
from llm360.release.entries import Analysis
from llm360.release.prune import prune_by_hand
from llm360.release.selection import find_checkpoint
from llm360.release.verify import verify
from llm360.storage import open_storage
from llm360.storage.file import FileStorage


def test_sound_release(release):
    report = release.verify(tensors="all", data=True)
    assert report.ok, report.first_fault
    assert [check.status for check in report.checks.values()] == ["ok"] * 11
    assert (report.complete, report.state, report.entries) == (True, "complete", len(release.entries()))


@pytest.mark.parametrize("workers", [1, 5])
def test_same_report_from_any_number_of_workers(release, workers):
    release.path("metrics").rename(release.path("elsewhere"))
    assert release.verify(workers=workers).to_json() == release.verify(workers=2).to_json()


def test_all_bytes_are_read_once(release):
    files = [
        path for path in release.folder.glob("checkpoints/*/a00*/*/*") if "litter" not in path.read_text("latin-1")
    ]
    assert release.verify(bytes="all", tensors="all").bytes_hashed == sum(path.stat().st_size for path in files)
    latest = [path for path in files if "step_000000006" in str(path)]
    assert release.verify(bytes="latest").bytes_hashed == sum(path.stat().st_size for path in latest)
    report = release.verify(bytes="none")
    assert report.ok
    assert report.bytes_hashed == 0
    assert report.checks[8].status == "skipped"


def test_progress_reaches_all_bytes(release):
    seen = []
    report = release.verify(progress=seen.append)
    assert {progress.check for progress in seen} == set(range(1, 12))
    assert max(progress.done_bytes for progress in seen) == report.bytes_hashed
    assert {progress.total_bytes for progress in seen if progress.done_bytes} == {report.bytes_hashed}


def test_older_checkpoints_are_looked_at_by_size_where_only_the_latest_is_read(release):
    path = release.path("checkpoints/step_000000002/a001/state/layer_00000.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert release.verify(bytes="latest").first_fault[1].key.endswith("state/layer_00000.safetensors")


def test_run_in_progress(builder):
    builder.start()
    report = verify(builder.storage)
    assert report.ok
    assert report.state == "in progress or truncated"


def test_head_that_is_in_the_chain(release):
    report = release.verify()
    assert release.verify(expected_head=report.head).ok
    names = [entry["prev"] for entry in release.entries()]
    older = release.verify(expected_head=names[5])
    assert older.ok
    assert f"{len(names) - 5} entries after" in older.checks[11].note


def test_checkpoint_passed_over_by_fallback_is_known_to_be_damaged(builder):
    builder.start()
    builder.pin_stages()
    builder.metrics(1, 2)
    builder.checkpoint(2, "ckpt_000")
    builder.metrics(3, 3)
    builder.checkpoint(3, published=False)
    path = builder.storage.root / "checkpoints/step_000000003/a001/state/layer_00000.safetensors"
    path.write_bytes(b"damaged")
    assert not verify(builder.storage).ok
    builder.start()
    older, damaged = builder.ledger.history().branch
    builder.writer.fallback([damaged], older, "step 3 does not verify")
    builder.metrics(3, 4)
    builder.checkpoint(4, "ckpt_001")
    report = verify(builder.storage)
    assert report.ok, report.first_fault
    assert "1 passed over" in report.checks[7].note


def test_rewind_and_skip(builder):
    builder.start()
    builder.pin_stages()
    builder.checkpoint(0, "init")
    builder.metrics(1, 2)
    builder.checkpoint(2, "ckpt_000")
    builder.metrics(3, 3)
    builder.writer.rewind(3, builder.ledger.history().latest_checkpoint, "loss is not finite")
    builder.writer.skip(2, builder.tokens(2), 0, [2], "loss is not finite")
    builder.metrics(3, 4)
    builder.checkpoint(4, "ckpt_001")
    report = verify(builder.storage)
    assert report.ok, report.first_fault


def test_rewind_to_the_untrained_model(builder):
    builder.start()
    builder.pin_stages()
    builder.metrics(1, 1)
    builder.writer.rewind(1, None, "loss is not finite")
    builder.metrics(1, 2)
    builder.checkpoint(2, "ckpt_000")
    report = verify(builder.storage)
    assert report.ok, report.first_fault


def test_hole_in_the_records_of_a_run_in_progress(builder):
    builder.start()
    builder.pin_stages()
    builder.metrics(1, 2)
    builder.metrics(4, 4)
    check, fault = verify(builder.storage).first_fault
    assert check.number == 6
    assert fault.problem == "the segment begins with step 4; the records before it end with step 2"


def test_checkpoint_made_again_in_its_own_folder_stands_only_for_a_damaged_one(builder):
    """Only a fallback entry says that the bytes of the first are not to be looked for."""
    initial, _damaged = builder.fall_back()
    builder.metrics(1, 2)
    builder.checkpoint(2, "ckpt_000")
    report = verify(builder.storage)
    assert report.ok, report.first_fault
    builder.writer.rewind(2, initial, "why")
    builder.metrics(1, 2)
    builder.checkpoint(2, "again")
    check, fault = verify(builder.storage).first_fault
    assert check.number == 4
    assert "is that of the checkpoint of entry" in fault.problem


def test_files_of_a_checkpoint_in_the_folder_of_a_pruned_one_are_missed(builder):
    _initial, damaged = builder.fall_back()
    builder.writer.prune(damaged, ["model", "state"], "why")
    builder.metrics(1, 2)
    builder.checkpoint(2, "ckpt_000")
    assert verify(builder.storage).ok
    shutil.rmtree(builder.storage.root / "checkpoints/step_000000002/a001/state")
    check, fault = verify(builder.storage).first_fault
    assert (check.number, fault.problem) == (8, "is missing")


def test_release_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no release at .*ledger/00000000\.json does not exist"):
        verify(open_storage(str(tmp_path)))


def test_store_that_gives_no_answer_is_no_fault(release):
    class Down(FileStorage):
        def iter_bytes(self, key, chunk_bytes=0):
            raise StorageUnavailableError("the store is down")

    with pytest.raises(StorageUnavailableError):
        verify(Down(release.folder))


def test_run_that_prunes_while_it_is_verified(release):
    class Busy(FileStorage):
        pruned = False

        def iter_bytes(self, key, chunk_bytes=1024):
            if not self.pruned:
                self.pruned = True
                ledger = open_release(release.storage)
                prune_by_hand(ledger, find_checkpoint(ledger.history(), "ckpt_001"), ["state"], "why")
            return super().iter_bytes(key, chunk_bytes)

    report = verify(Busy(release.folder), workers=1)
    assert report.ok, report.first_fault
    assert not release.path("checkpoints/step_000000004/a002/state").exists()


@pytest.mark.parametrize("can_list", [True, False])
def test_run_that_appends_while_its_head_is_looked_for(release, can_list):
    class Busy(FileStorage):
        appended = False

        def append(self):
            if not self.appended:
                self.appended = True
                ledger = open_release(release.storage)
                for name in ("first", "second"):
                    release.storage.put(f"analysis/{name}/x", b"")
                    digests = {"x": sha256_digest(b"")}
                    ledger.append(lambda _, n=name, d=digests: Analysis(name=n, prefix=f"analysis/{n}", digests=d))

        def list(self, prefix=""):
            if prefix == "ledger/":
                self.append()
                if not can_list:
                    raise StoreUnusableError("a web server")
            return super().list(prefix)

    report = verify(Busy(release.folder))
    assert report.ok, report.first_fault
    assert report.entries == len(release.entries()) - 2


@pytest.fixture
def web_server(release) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(release.folder.parent))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/release"
    server.shutdown()
    thread.join()
    server.server_close()


def test_plain_http_without_list(release, web_server):
    report = verify(open_storage(web_server), tensors="all", data=True)
    assert report.ok, report.first_fault
    assert report.head == release.verify().head
    release.path("checkpoints/step_000000002/a001/model/config.json").unlink()
    assert not verify(open_storage(web_server)).ok


def test_command(release, capsys):
    assert command(["verify", str(release.folder)]) == 0
    assert "verified: every link" in capsys.readouterr().out
    shutil.rmtree(release.path("evals"))
    assert command(["verify", str(release.folder), "-o", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [check["number"] for check in report["checks"] if check["status"] == "failed"] == [10]
    assert command(["verify", str(release.folder)]) == 1
    assert "BROKEN at check 10: evals/step_000000006/" in capsys.readouterr().out
    assert command(["verify", str(release.folder / "nothing")]) == 2


def test_head_of_a_chain_that_cannot_be_read(release, capsys):
    release.path("ledger/00000000.json").write_bytes(b"{}")
    assert command(["verify", str(release.folder)]) == 1
    said = capsys.readouterr().out
    assert "head    none: no entry can be read\n" in said
    assert "BROKEN at check 1: ledger/00000000.json: is not a ledger entry: field 'seq' is missing\n" in said


def test_a_fault_names_its_key_once(release):
    key = release.keys("metrics/a001/*.parquet")[0]
    release.path(key).write_bytes(b"")
    release.path("checkpoints/step_000000002/a001/manifest.json").write_bytes(b"{}")
    faults = [fault for check in release.verify().checks.values() for fault in check.faults]
    assert [fault.problem.partition(" sha256:")[0] for fault in faults[:2]] == ["has the digest", "has digest"]
    assert not any(fault.key in fault.problem for fault in faults)
