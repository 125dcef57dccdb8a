"""Find environments by the registered id that users and data name; their settings are only values.

Data brings no code. Nothing here needs torch.
"""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {**dict.fromkeys(("find_spec", "import_modules"), "registry"), "parse_env_kwargs": "settings"}
)
