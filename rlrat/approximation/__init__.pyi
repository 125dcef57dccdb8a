from .constructions import Construction as Construction
from .constructions import construction as construction
from .constructions import names as names
