"""What the tests of the emulator, and on it, need before it begins."""

import pytest
import torch

from tests.rational.conftest import _quick_interpreter  # noqa: F401  # Triton's interpreter, made quicker


@pytest.fixture(scope="session")
def _compiled_before() -> None:
    """Compile something, for which torch.compile looks at PyTorch's functions once in a process."""
    torch.compile(lambda x: x + 1.0, backend="eager")(torch.ones(1))


@pytest.fixture
def aot_eager(_compiled_before, monkeypatch) -> None:
    """torch.compile makes graphs of PyTorch's operations and does not compile these, so that a capture sees them."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, backend="aot_eager", **options))
    torch._dynamo.reset()
