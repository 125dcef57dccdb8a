import subprocess
import sys

from rlrat.rational import backends


def test_the_command_prints_the_report():
    done = subprocess.run([sys.executable, "-m", "rlrat.rational"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == backends.report()
    assert done.stderr == ""
