"""`python -m rlrat.rational`: which backend each device of this machine uses, and why not a faster one."""

from .backends import report

if __name__ == "__main__":
    print("\n".join(report()))
