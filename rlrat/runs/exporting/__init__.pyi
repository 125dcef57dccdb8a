from .exported import export as export
