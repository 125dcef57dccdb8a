"""Environments as users and data name them: found by registered id, with settings that are values alone, and none of it
code that data brings. Nothing here needs torch.
"""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {**dict.fromkeys(("find_spec", "import_modules"), "registry"), "parse_env_kwargs": "settings"}
)
