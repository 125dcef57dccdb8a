import pytest

from rlrat.errors import InputError


def test_a_cluster_of_ray_that_is_not_there_is_one_line(sweeper):
    pytest.importorskip("ray", reason='needs Ray: pip install "rlrat[ray]"')
    with pytest.raises(InputError, match="no Ray cluster at auto"):
        sweeper("--launcher", "ray", "--ray.address", "auto")
