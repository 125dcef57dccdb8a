"""A kernel that Triton compiles anew where its counter is not aligned, as it does not of the library's own."""

import triton
import triton.language as tl


@triton.jit
def counting_kernel(out_ptr, ticket_ptr):
    """Add 1 to out where the counter is zero."""
    tl.store(out_ptr, tl.load(out_ptr) + (tl.load(ticket_ptr) == 0).to(tl.float32))
