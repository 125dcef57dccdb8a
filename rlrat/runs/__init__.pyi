from .arguments import RunArguments as RunArguments
from .arguments import parse as parse
from .exporting.exported import export as export
from .loading import load_policy as load_policy
from .run import Run as Run
from .training import RunResult as RunResult
from .training import train as train
