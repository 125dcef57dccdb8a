import subprocess
import sys

import pytest

import rlrat
from rlrat.networks import activations


def test_the_registry_has_the_name_that_users_know():
    assert rlrat.activations is activations
    assert rlrat.make_activation is activations.make_activation


@pytest.mark.parametrize(
    "line", ["import rlrat.activations", "from rlrat import activations", "import rlrat; rlrat.activations"]
)
def test_it_is_there_however_it_is_imported_first(line):
    code = f"{line}\nimport rlrat.activations\nfrom rlrat.networks import activations as one\n"
    subprocess.run([sys.executable, "-c", f"{code}assert rlrat.activations is one"], check=True)
