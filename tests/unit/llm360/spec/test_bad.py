"""Every file in bad/ is one fault, named by the file; its first lines, as comments, are the sentences told."""

from pathlib import Path

import pytest

from llm360.errors import InputError, SpecError
from llm360.spec import documents, resolve
from llm360.spec.rules import RULES

FILES = sorted((Path(__file__).parent / "bad").glob("*.yaml"))


def sentences(path: Path) -> list[str]:
    """What resolving a file says."""
    with pytest.raises(InputError) as caught:
        resolve(documents.parse(path.read_text(), path.name))
    error = caught.value
    assert error.exit_code == 2
    return list(error.problems) if isinstance(error, SpecError) else [error.message]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_bad_input_is_told_in_these_words(path):
    expected = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ")]
    assert sentences(path) == expected


def test_every_rule_has_a_file_that_breaks_it(monkeypatch):
    broken = set()

    def recording(rule):
        def check(spec):
            for problem in rule.check(spec):
                broken.add(rule.check.__name__)
                yield problem

        return rule._replace(check=check)

    monkeypatch.setattr("llm360.spec.rules.RULES", [recording(rule) for rule in RULES])
    for path in FILES:
        sentences(path)
    assert broken == {rule.check.__name__ for rule in RULES}
