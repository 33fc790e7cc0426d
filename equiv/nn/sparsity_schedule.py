"""When sparse gates explore, choose, and stay."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.nn.path_gate import Phase


class SparseGate(Protocol):
    """What the schedule asks of a gate."""

    def update(self, phase: Phase, step: int) -> None: ...


class SparsitySchedule(nn.Module):
    r"""Three phases, counted in optimizer steps :math:`t`.

    .. math::
        \text{random: } t < t_1, \qquad \text{adaptive: } t_1 \le t < t_2, \qquad
        \text{fixed: } t \ge t_2

    A state machine and nothing more: :meth:`advance` is called once after every optimizer step and
    tells all gates. The phase is a function of the step; what the gates keep is a function of the
    step and their own state, which is in the state dict, so a run that is resumed in any phase goes
    on as if it had never stopped. Evaluation advances nothing. (Luo et al. 2025: 2 and 3 epochs.)

    Args:
        gates: every gate once.
        random_until: :math:`t_1`.
        fixed_from: :math:`t_2`.
    """

    def __init__(self, gates: Sequence[SparseGate], *, random_until: int, fixed_from: int) -> None:
        super().__init__()
        if not 0 <= random_until <= fixed_from:
            raise EquivError(
                "sparsity schedule: expected 0 <= random_until <= fixed_from (in steps), got "
                f"{random_until} and {fixed_from}"
            )
        self.random_until, self.fixed_from = int(random_until), int(fixed_from)
        self.gates = tuple(gates)  # a tuple: they are modules of their layers, not of this one
        self.step: Tensor
        self.register_buffer("step", torch.tensor(0))
        self.advance(0)

    def phase_at(self, step: int) -> Phase:
        """The phase after so many optimizer steps."""
        if step < self.random_until:
            return Phase.RANDOM
        return Phase.ADAPTIVE if step < self.fixed_from else Phase.FIXED

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self.phase_at(int(self.step))

    def advance(self, step: int) -> None:
        """Tell the gates that ``step`` optimizer steps have been taken.

        Saying the same step twice changes nothing.
        """
        self.step.fill_(step)
        phase = self.phase_at(step)
        for gate in self.gates:
            gate.update(phase, step)

    def require_fixed(self) -> None:
        """Make sure that nothing will change any more.

        Raises:
            EquivError: it may.
        """
        if self.phase != Phase.FIXED:
            phase = self.phase.name.lower()
            raise EquivError(
                f"this model cannot be made compact: its gates are still {phase}; train it to step "
                f"{self.fixed_from} first, where they are fixed"
            )

    def extra_repr(self) -> str:
        return f"random until {self.random_until}, fixed from {self.fixed_from}"
