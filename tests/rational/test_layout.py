"""Where elements lie in memory: worked out by hand for small tensors."""

import pytest
import torch

from rlrat.rational.layout import Layout, empty_output, entries_stride, is_flat

ONE, GROUPS, BATCH = torch.empty(1, 6), torch.empty(2, 6), torch.empty(3, 2, 6)


def test_flat_is_what_has_one_set_of_coefficients_and_no_gaps():
    x = torch.empty(3, 4, 8)
    assert is_flat(x, ONE, None)
    assert is_flat(x.permute(2, 0, 1), ONE, None)
    assert is_flat(x[:, :1], ONE, None) is False
    assert is_flat(x[..., ::2], ONE, None) is False
    assert is_flat(x[:1].expand_as(x), ONE, None) is False
    assert is_flat(x, ONE, torch.empty(8)) is False
    assert is_flat(x, GROUPS, None) is False
    assert is_flat(x, BATCH, None) is False


def test_an_output_has_the_strides_of_a_flat_input_and_is_contiguous_otherwise():
    x = torch.empty(3, 4, 8, dtype=torch.float64).permute(2, 0, 1)
    assert empty_output(x, ONE).stride() == x.stride() == (1, 32, 8)
    assert empty_output(x, GROUPS).stride() == (12, 4, 1)
    assert empty_output(x, ONE, torch.empty(4)).stride() == (12, 4, 1)
    assert empty_output(x[:, :, ::2], ONE).stride() == (6, 2, 1)
    assert empty_output(x, GROUPS).dtype == torch.float64


def test_layouts_split_an_input_into_batch_rows_and_groups():
    x = torch.empty(3, 4, 5, 8)
    assert Layout.of(x, ONE, None) == (1, 1, 1, 480, True, 0)
    assert Layout.of(x, ONE, torch.empty(8)) == (1, 60, 1, 8, False, 0)
    assert Layout.of(x, GROUPS, None) == (1, 60, 2, 4, False, 0)
    assert Layout.of(x, BATCH, None) == (3, 20, 2, 4, False, 1)
    assert Layout.of(x, torch.empty(3, 4, 1, 6), None) == (12, 5, 1, 8, False, 2)


@pytest.mark.parametrize(
    ("change", "strides", "is_copied"),
    [
        (lambda x: x, (160, 8), False),
        (lambda x: torch.cat([x, x], -1)[..., :8], (320, 16), False),
        (lambda x: x.repeat_interleave(2, dim=0)[::2], (320, 8), False),
        (lambda x: x[:1].expand_as(x), (0, 8), False),
        (lambda x: x[:, :, :1].expand_as(x), (160, 8), True),  # its rows are no single stride apart
        (lambda x: x.repeat_interleave(2, dim=-1)[..., ::2], (160, 8), True),  # features that are not neighbours
        (lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), (160, 8), True),
    ],
)
def test_a_tensor_is_copied_only_where_its_axes_have_no_single_stride(change, strides, is_copied):
    x = change(torch.arange(480.0).reshape(3, 4, 5, 8))
    layout = Layout.of(x, BATCH, None)
    addressed, *found = layout.addressed(x, x)
    assert tuple(found) == strides
    assert (addressed is not x) == is_copied
    assert torch.equal(addressed, x)


def test_a_flat_tensor_takes_the_memory_order_of_its_input():
    x = torch.empty(4, 6).t()
    grad = torch.arange(24.0).reshape(6, 4)
    layout = Layout.of(x, ONE, None)
    assert layout.addressed(x, x) == (x, 0, 0)
    ordered, *strides = layout.addressed(grad, x)
    assert strides == [0, 0]
    assert ordered.stride() == x.stride()
    assert torch.equal(ordered, grad)


def test_entries_without_gaps_keep_their_memory():
    layout = Layout.of(torch.empty(3, 5, 8), BATCH, None)
    part = torch.empty(3, 40)[:, 7:19].view(3, 2, 6)
    assert layout.entries(part) == (part, 40)
    assert entries_stride(part, 1) == 40
    apart = torch.arange(36.0).reshape(3, 6, 2).transpose(1, 2)
    assert entries_stride(apart, 1) is None
    copied, stride = layout.entries(apart)
    assert (stride, copied.is_contiguous()) == (12, True)
    assert torch.equal(copied, apart)
    assert entries_stride(torch.empty(2, 3, 6), 0) == 0  # no batch
    assert entries_stride(torch.empty(4, 3, 6)[::2], 1) == 36
    assert entries_stride(torch.empty(3, 2, 6).transpose(0, 1), 2) is None  # two axes of batch, no single stride
