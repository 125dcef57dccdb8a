from .build import build_report as build_report
from .importing import import_runs as import_runs
from .read import read_runs as read_runs
from .report import Report as Report
