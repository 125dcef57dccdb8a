"""Read runs, compare them with statistics that hold, and show them: tables, plots and a page."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {"Report": "report", "build_report": "build", "import_runs": "importing", "read_runs": "read"}
)
