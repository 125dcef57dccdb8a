"""Read runs, compare them with statistics that hold, and show them: tables, plots and a page."""
