import subprocess
import sys

import torch

import rlrat
from rlrat.rational import Rational, rational


def test_the_package_is_callable():
    module = Rational(groups=2)
    x = torch.randn(5, 6)
    found = rlrat.rational(x, module.numerator, module.denominator, version="A")
    torch.testing.assert_close(found, rational(x, module.numerator, module.denominator), rtol=0, atol=0)
    assert rlrat.rational.Rational is rlrat.Rational is Rational


def test_the_package_loads_neither_scipy_nor_matplotlib_nor_the_rest_of_rlrat():
    code = """if True:
        import sys, rlrat.rational
        rlrat.rational.Rational("gelu")
        ours = {name for name in sys.modules if name.startswith("rlrat.") and not name.startswith("rlrat.rational")}
        print(ours, "scipy" in sys.modules, "matplotlib" in sys.modules)
    """
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["set()", "False", "False"]
