from .folder import SweepFolder as SweepFolder
from .grid import Block as Block
from .grid import Grid as Grid
from .grid import expand as expand
from .grid import make_jobs as make_jobs
