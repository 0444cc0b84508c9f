"""The one error of the testbed."""


class TestbedError(Exception):
    """What is wrong, what was found, and what to do; shown as it is, without a traceback."""

    __test__ = False  # pytest: not a test class
