"""Three phases at exact steps."""

import pytest

from equiv.errors import EquivError
from equiv.hamiltonian.coupling_paths import coupling_paths
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.gates import PairGate
from equiv.nn.path_gate import PathGate, Phase
from equiv.nn.sparsity_schedule import SparsitySchedule

PATHS = coupling_paths(Degrees.up_to(2), Degrees.up_to(2), Degrees.up_to(2))


def made(random_until=3, fixed_from=5):
    gates = [PathGate(PATHS, 0.5, layer=1), PairGate(2, 0.5, layer=2)]
    schedule = SparsitySchedule(gates, random_until=random_until, fixed_from=fixed_from)
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
