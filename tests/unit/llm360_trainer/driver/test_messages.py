from __future__ import annotations

import pytest

from llm360_trainer.driver.messages import describe_error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("no luck"), "ValueError: no luck"),
        (RuntimeError("Traceback\n  File …\nOSError: no room\n"), "RuntimeError: OSError: no room"),
        (RuntimeError("The process has died. Some common causes include: …"), "RuntimeError: The process has died"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_is_one_sentence(error: Exception, sentence: str) -> None:
    assert describe_error(error) == sentence
