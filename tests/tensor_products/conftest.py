import sys

import pytest


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Traces of one test do not count for the next: torch allows eight of a function."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
