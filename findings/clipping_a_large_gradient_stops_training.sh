#!/usr/bin/env bash
# torch 2.13.0, CPU build: clip_grad_norm_ adds float32 squares. One finite element of 2e19 among a thousand makes the
# norm infinite and the factor 0, so that the step that was to be shortened is none at all, with no error unless
# error_if_nonfinite=True; a tensor of one element, whose norm is its size, is clipped rightly. torch.optim.Adam without
# clipping goes on until 5e20 and stands still from 1e21: the second moment of that element is infinite from then on, so
# that later gradients do not move it either.
#
# Seen, for the element that is large: SGD at rate 0.1 with max_norm 1 moves by 0.1 at 1e19, by 0 at 2e19, and by 0.1 at
# 2e19 where the tensor has no other; Adam at rate 0.1 has moved by 0.436 after the large gradient and ten of size 1
# where it was 5e20, by 0 where it was 1e21.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch


def clipped(largest: float, elements: int) -> float:
    parameter = torch.nn.Parameter(torch.zeros(elements))
    parameter.grad = torch.full((elements,), 0.5)
    parameter.grad[0] = largest
    torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    torch.optim.SGD([parameter], lr=0.1).step()
    return round(-parameter[0].item(), 3)


def after_ten_steps(largest: float) -> float:
    parameter = torch.nn.Parameter(torch.zeros(1000))
    adam = torch.optim.Adam([parameter], lr=0.1)
    for gradient in (largest, *[1.0] * 10):
        parameter.grad = torch.ones(1000)
        parameter.grad[0] = gradient
        adam.step()
    return round(-parameter[0].item(), 3)


sgd = [clipped(1e19, 1000), clipped(2e19, 1000), clipped(2e19, 1)]
adam = [after_ten_steps(5e20), after_ten_steps(1e21)]
print(f"torch {torch.__version__}: SGD with clipping {sgd}, Adam {adam}")
assert sgd == [0.1, 0.0, 0.1] and adam == [0.436, 0.0]
PYTHON
