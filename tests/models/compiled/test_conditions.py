import json

from equiv.models.compiled.conditions import Condition


def test_equations_and_bounds_hold_or_not():
    equal = Condition(True, ((1, (0,)), (1, (1,)), (-1, (2,))))  # n0 + n1 = n2
    assert equal.holds([2, 3, 5])
    assert not equal.holds([2, 3, 6])
    bound = Condition(False, ((-4, (0, 1)), (100, ())))  # 4 n0 n1 <= 100
    assert bound.holds([5, 5])
    assert not bound.holds([5, 6])


def test_a_condition_survives_a_file():
    condition = Condition(False, ((-4, (0, 1)), (100, ())))
    assert Condition.from_dict(json.loads(json.dumps(condition.to_dict()))) == condition
