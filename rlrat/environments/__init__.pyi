from .registry import find_spec as find_spec
from .registry import import_modules as import_modules
from .settings import parse_env_kwargs as parse_env_kwargs
