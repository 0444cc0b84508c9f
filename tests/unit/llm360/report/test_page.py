from __future__ import annotations

import html.parser
import re
from datetime import timedelta

import pytest
from synthetic.described import described_release

from llm360.errors import IntegrityError
from llm360.release.create import open_release
from llm360.release.history import History
from llm360.release.verify import verify
from llm360.report.page import render_report
from llm360.report.verification import verification_view

VOID = {"meta", "br", "link", "img"}


class Outline(html.parser.HTMLParser):
    """Elements by name, the text, the ids, and the elements that were not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.unclosed: list[str] = []
        self.faults: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.unclosed or self.unclosed.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if not self.unclosed or self.unclosed[-1] != "style":
            self.text += data


def page_of(run, **options) -> str:
    return render_report(run.storage, open_release(run.storage).history(), run.now + timedelta(seconds=1), **options)


def test_page_is_well_formed_and_loads_nothing(eventful):
    page = page_of(eventful)
    outline = Outline(page)

    assert (outline.faults, outline.unclosed) == ([], [])
    assert not [name for name, _ in outline.elements if name in ("script", "link", "img", "iframe", "object")]
    assert not [a for _, a in outline.elements if "src" in a or not (a.get("href") or "#").startswith("#")]
    assert "url(" not in page
    assert "@import" not in page


def test_ids_are_unique_and_every_link_leads_somewhere(eventful):
    outline = Outline(page_of(eventful))
    ids = [a["id"] for _, a in outline.elements if "id" in a]

    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for name, a in outline.elements if name == "a"} <= set(ids)


def test_page_shows_every_checkpoint_with_its_whole_digests(eventful):
    page = page_of(eventful)

    for entry in eventful.entries:
        if entry.kind == "checkpoint":
            assert entry.body.digests.model in page
            assert entry.body.digests.state in page
            assert entry.name in page


def test_page_shows_all_curves(eventful):
    ids = {a["id"] for name, a in Outline(page_of(eventful)).elements if name == "figure"}

    assert ids == {
        "loss", "source-loss", "mixture", "learning-rate", "grad-norm", "throughput", "waiting", "time"
    }  # fmt: skip


def test_text_of_the_release_cannot_become_markup(eventful):
    page = page_of(eventful)

    assert "<b>space</b>" not in page
    assert "&lt;b&gt;space&lt;/b&gt; &amp; order" in page


def test_words_of_the_release_stand_at_the_top(storage):
    words = {"license": "CC-BY-4.0", "authors": ["Ada", "<i>Charles</i>"], "description": "<script>x</script>\nbooks"}
    run = described_release(storage, words)
    page = page_of(run)
    header = page[: page.index("</header>")]

    assert '<p class="words">&lt;script&gt;x&lt;/script&gt;\nbooks</p>' in header
    assert '<p class="lead">By Ada, &lt;i&gt;Charles&lt;/i&gt;.</p>' in header
    assert '<p class="lead">Licence: CC-BY-4.0.</p>' in header
    outline = Outline(page)
    assert (outline.faults, outline.unclosed) == ([], [])


@pytest.mark.parametrize(
    ("words", "said"),
    [({"authors": ["Ada"]}, ["By Ada."]), ({"license": "MIT"}, ["Licence: MIT."]), ({"authors": []}, [])],
)
def test_words_that_nobody_stated_are_not_there(storage, words, said):
    page = page_of(described_release(storage, words))
    header = page[: page.index("</header>")]

    assert 'class="words"' not in header
    assert re.findall(r'<p class="lead">(.*)</p>', header)[1:] == said


def test_page_without_verification_says_so(eventful):
    assert "Not verified for this report" in page_of(eventful)


def test_verified_release(eventful):
    view = verification_view(verify(eventful.storage, bytes="all"), "all")
    text = Outline(page_of(eventful, verification=view)).text

    assert view.ok
    assert "Verified: every link that was checked holds." in text
    assert "every file of every checkpoint" in text
    assert text.count("✓ holds") == 11


def test_broken_release_names_the_first_broken_link(eventful):
    last = next(e for e in reversed(eventful.entries) if e.kind == "checkpoint")
    key = f"{last.body.prefix}/model/w.safetensors"
    data = bytearray(eventful.storage.get(key))
    data[-1] ^= 1
    eventful.storage.put(key, bytes(data))

    view = verification_view(verify(eventful.storage, bytes="latest"), "latest")
    text = Outline(page_of(eventful, verification=view)).text

    assert not view.ok
    assert f"Broken at check 8, checkpoint bytes: {key}" in text
    assert "✗ broken" in text


def test_changed_metrics_are_not_drawn(eventful):
    key = next(e.body.key for e in eventful.entries if e.kind == "metrics")
    eventful.storage.put(key, b"other")

    with pytest.raises(IntegrityError, match=key):
        page_of(eventful)


def test_data_elsewhere_that_cannot_be_read_costs_only_the_unigram_line(eventful):
    eventful.storage.delete("data/stage1/manifest.json")
    page = page_of(eventful)

    assert "the data of stage &#39;stage1&#39; could not be read" in page
    assert "unigram entropy</li>" not in page


def test_run_in_progress_shows_its_estimated_end(interrupted):
    text = Outline(page_of(interrupted)).text

    assert "in progress" in text
    assert "Estimated end" in text
    assert "step 110 of 400" in text


def test_release_before_its_first_step(interrupted):
    history = History.from_entries(interrupted.entries[:2])
    text = Outline(render_report(interrupted.storage, history, interrupted.now)).text

    assert "No step has been committed yet." in text
    assert "No checkpoint has been committed yet." in text
    assert "No stage has been pinned yet." in text


def test_same_release_gives_the_same_page(eventful):
    assert page_of(eventful) == page_of(eventful)


@pytest.mark.slow
def test_page_of_a_long_run_stays_small(new_release):
    run = new_release(num_chunks=360, chunk_steps=100)
    page = page_of(run)

    assert len(page) < 5_000_000
    assert all(len(re.findall(",", d)) <= 2000 for d in re.findall(r' d="([^"]*)"', page))
