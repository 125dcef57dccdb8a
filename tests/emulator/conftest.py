"""What the tests of the emulator, and on it, need before it begins."""

import pytest
import torch

from tests.rational.conftest import _quick_interpreter  # noqa: F401  # Triton's interpreter, made quicker


@pytest.fixture
def aot_eager(monkeypatch) -> None:
    """torch.compile makes graphs of PyTorch's operations and does not compile these, so that a capture sees them."""
    whole = torch.compile
    torch._dynamo.reset()
    # Now, because it makes tables of PyTorch's functions, and an emulator replaces some of them.
    whole(lambda x: x + 1.0, backend="eager")(torch.ones(1))
    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, backend="aot_eager", **options))
