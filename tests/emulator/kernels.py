"""A kernel for tests of launches, which Triton specialises as it does by default."""

import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, ticket_ptr, amount, SIGN: tl.constexpr):
    """Add SIGN (amount + what the ticket counts) to a number."""
    tl.store(x_ptr, tl.load(x_ptr) + SIGN * (amount + tl.load(ticket_ptr)))


@triton.jit(do_not_specialize=["amount"], do_not_specialize_on_alignment=["ticket_ptr"])
def careful_add_kernel(x_ptr, ticket_ptr, amount, SIGN: tl.constexpr):
    """Do the same; one compiled kernel takes every ticket and every amount."""
    tl.store(x_ptr, tl.load(x_ptr) + SIGN * (amount + tl.load(ticket_ptr)))
