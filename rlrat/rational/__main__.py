"""Print which backend each device of this machine uses, and why not a faster one: `python -m rlrat.rational`."""

from .backends import report

if __name__ == "__main__":
    print("\n".join(report()))
