"""What every end-to-end test stands on: a real cluster."""

from testbed.fixtures import machine, namespace, testbed

__all__ = ["machine", "namespace", "testbed"]
