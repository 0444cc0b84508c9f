import io

from llm360_trainer.prepare.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_gets_a_line_now_and_then_and_the_last():
    stream, times = io.StringIO(), iter([0, 1, 2, 11, 12])
    line = ProgressLine(stream, lambda: next(times))
    for done in range(1, 6):
        line("writing", done, 5, "")
    assert stream.getvalue().splitlines() == ["writing 1/5", "writing 4/5", "writing 5/5"]


def test_terminal_keeps_one_line_until_the_end():
    stream, times = Terminal(), iter([0, 0.1, 0.3, 0.4])
    line = ProgressLine(stream, lambda: next(times))
    for done in (0, 1, 2, 3):
        line("tokenizing", done, 3, f"{1000 * done:,} tokens")
    shown = stream.getvalue()
    assert shown.count("\n") == 1
    assert shown.endswith("tokenizing 3/3 · 3,000 tokens\n")
    assert "1/3" not in shown


def test_unknown_total_is_left_out():
    stream = io.StringIO()
    ProgressLine(stream)("checking lines", 1000, 0, "0 bad")
    assert stream.getvalue() == "checking lines 1,000 · 0 bad\n"
