import pytest

from equiv.data import read_frames, shipped
from equiv.data.catalog import shipped as same
from equiv.errors import DataError


def test_a_set_that_is_not_shipped_is_an_error_that_lists_those_that_are():
    with pytest.raises(DataError, match="no data set 'atlantis' is shipped; there are"):
        shipped("atlantis")


def test_the_function_is_reachable_by_its_name():
    assert shipped is same
    assert callable(read_frames)
