"""Triton's interpreter, made quicker as for the tests of its kernels."""

from tests.rational.conftest import _quick_interpreter  # noqa: F401
