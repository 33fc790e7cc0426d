import pytest

from .table import LAYERS, MODELS


def pytest_generate_tests(metafunc):
    if "entry" in metafunc.fixturenames:
        metafunc.parametrize("entry", LAYERS, ids=lambda entry: entry.name)
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", MODELS, indirect=True)


_BUILT = {}


@pytest.fixture
def model(request):
    """One of the models, built once; no law may change it."""
    if request.param not in _BUILT:
        _BUILT[request.param] = MODELS[request.param]()
    return _BUILT[request.param]
