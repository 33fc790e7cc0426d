"""Three phases at exact steps."""

import math

import pytest

from equiv.errors import EquivError
from equiv.hamiltonian.coupling_paths import coupling_paths
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.gates import PairGate
from equiv.nn.path_gate import PathGate, Phase
from equiv.nn.sparsity_schedule import SparsitySchedule

PATHS = coupling_paths(Degrees.up_to(2), Degrees.up_to(2), Degrees.up_to(2))


def made(random_until=3, fixed_from=5, exploration="random"):
    gates = [PathGate(PATHS, 0.5, layer=1), PairGate(2, 0.5, layer=2)]
    schedule = SparsitySchedule(
        gates, random_until=random_until, fixed_from=fixed_from, exploration=exploration
    )
    return schedule, gates


def test_phases_change_at_exact_steps():
    schedule, gates = made()
    seen = []
    for step in range(8):
        schedule.advance(step)
        assert {int(gate.phase) for gate in gates} == {int(schedule.phase)}
        seen.append(schedule.phase)
    assert seen == [Phase.RANDOM] * 3 + [Phase.ADAPTIVE] * 2 + [Phase.FIXED] * 3


def test_a_schedule_without_phases_is_fixed_from_birth():
    schedule, gates = made(0, 0)
    assert schedule.phase == Phase.FIXED
    assert int(gates[0].phase) == Phase.FIXED


def test_saying_a_step_twice_changes_nothing():
    schedule, gates = made()
    schedule.advance(2)
    before = gates[0].selection
    schedule.advance(2)
    assert gates[0].selection == before


def test_random_steps_draw_anew():
    schedule, gates = made(100, 100)
    chosen = set()
    for step in range(50):
        schedule.advance(step)
        chosen.add(gates[0].selection)
    assert len(chosen) > 30


def test_gates_are_not_saved_twice():
    schedule, _ = made()
    assert list(schedule.state_dict()) == ["step"]


def test_phases_must_be_in_order():
    with pytest.raises(EquivError, match="0 <= random_until <= fixed_from"):
        made(5, 3)


def test_gradual_gates_drop_nothing_at_first_and_everything_that_is_asked_at_the_end():
    schedule, (paths, pairs) = made(10, 30, "gradual")
    seen = []
    for step in range(40):
        schedule.advance(step)
        expected = 0.5 * (1 - (1 - max(0.0, (step - 10) / 20)) ** 3) if step < 30 else 0.5
        assert float(pairs.reached) * 0.5 == pytest.approx(expected)
        assert len(paths.selection) == math.ceil((1 - expected) * len(PATHS) - 1e-9)
        seen.append(len(paths.selection))
    assert seen[:11] == [len(PATHS)] * 11
    assert len(set(seen)) > 5


@pytest.mark.parametrize("exploration", ["random", "gradual"])
def test_without_phases_the_whole_share_is_dropped(exploration):
    _, (paths, pairs) = made(0, 0, exploration)
    assert len(paths.selection) == math.ceil(0.5 * len(PATHS))
    assert float(pairs.reached) == 1


def test_an_unknown_exploration_is_named():
    with pytest.raises(EquivError, match="exploration: expected one of 'random', 'gradual'"):
        made(exploration="gradul")
