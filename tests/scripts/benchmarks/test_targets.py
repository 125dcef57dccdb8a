import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from targets import TARGETS, minimum_time, minimum_time_of_two

STATES = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_its_inputs_and_is_standardized_on_its_grid(name):
    target = TARGETS[name]
    grid = target.grid()
    assert grid.shape == (target.points**target.inputs, target.inputs)
    assert grid.abs().max() < 1
    assert torch.unique(grid, dim=0).shape == grid.shape
    values = target.standardized(grid)
    assert float(values.mean()) == pytest.approx(0, abs=1e-12)
    assert float(values.square().mean()) == pytest.approx(1, abs=1e-12)
    few = torch.tensor([[[0.25] * target.inputs], [[-0.5] * target.inputs]], dtype=torch.float32)
    assert target.standardized(few).shape == (2, 1)
    assert target.standardized(few).dtype == torch.float32
    slope, offset = np.polyfit(target.function(grid), values, 1)
    assert target.standardized(few).numpy() == pytest.approx(slope * target.function(few).numpy() + offset, rel=1e-5)


def value(name: str, *x: float) -> float:
    return float(TARGETS[name].function(torch.tensor(x, dtype=torch.float64)))


def test_values_that_are_known():
    assert [value("kinks", x) for x in (-1, -0.6, -0.1, 0.3, 0.7, 1)] == pytest.approx(
        [-0.5, -0.5, 0.5, -0.3, 0.5, 0.5]
    )
    assert [value("steps", x) for x in (-0.6, -0.4, 0.2, 0.7)] == [0, 1, -1, 0.5]
    assert value("poles", 0.3) == pytest.approx(1 - 1 / 50)
    assert value("scales", 0.5) == pytest.approx(1 - 1 / 2 + 1 / 4)


def test_the_least_time_of_states_that_are_known():
    assert value("control", 0.0, 0.0) == 0
    assert value("control", 1.0, 0.0) == pytest.approx(2)  # half of the way speeding up, half braking
    assert value("control", 0.5, -1.0) == pytest.approx(1)  # on the switching curve: braking alone
    assert value("control", -0.5, 1.0) == pytest.approx(1)
    assert value("control", 0.0, 1.0) == pytest.approx(1 + 2**0.5)
    assert value("two controls", 1.0, 0.0, 0.0, 1.0) == pytest.approx(1 + 2**0.5)


def test_the_least_time_solves_the_equation_of_hamilton_jacobi_and_bellman():
    """min over |u| <= 1 of v T_p + u T_v is -1, wherever T has a gradient; of two systems, over both u."""
    x = STATES.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(minimum_time(x).sum(), x)
    assert (STATES[:, 1] * slopes[:, 0] - slopes[:, 1].abs()).numpy() == pytest.approx(-1, abs=1e-9)
    x = STATES.view(100, 4).clone().requires_grad_()
    (slopes,) = torch.autograd.grad(minimum_time_of_two(x).sum(), x)
    p, v = slopes.view(100, 2, 2).unbind(-1)
    least = (STATES.view(100, 2, 2)[..., 1] * p - v.abs()).sum(-1)
    assert least.numpy() == pytest.approx(-1, abs=1e-9)


def test_a_simulation_that_switches_on_the_curve_takes_the_least_time():
    p, v = STATES.unbind(-1)
    step, side = 2e-3, torch.sign(p + v * v.abs() / 2)
    u, time = -side, torch.zeros_like(p)
    for _ in range(1800):
        moves = side * v < 0  # once it brakes, until it stands
        moves |= u == -side
        p, v = torch.where(moves, p + step * v + step**2 / 2 * u, p), torch.where(moves, v + step * u, v)
        time += step * moves
        u = torch.where(side * (p + v * v.abs() / 2) <= 0, side, u)
    assert not moves.any()
    assert torch.stack([p, v]).abs().max() < 4 * step
    assert time.numpy() == pytest.approx(minimum_time(STATES).numpy(), abs=4 * step)


def test_no_control_comes_earlier():
    """Linear programs over controls that are constant on 100 steps: none is fast enough for 98% of the time."""
    for state in STATES[:20]:
        for share, reached in ((0.98, False), (1.02, True)):
            step = share * float(minimum_time(state)) / 100
            left = step * (99.5 - np.arange(100))  # from the middle of each step to the end
            motion = step * np.stack([left, np.ones(100)])
            p, v = state.tolist()
            rest = [-p - 100 * step * v, -v]
            assert linprog(np.zeros(100), A_eq=motion, b_eq=rest, bounds=(-1, 1)).success is reached
