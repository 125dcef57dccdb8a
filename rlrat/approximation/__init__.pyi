from .constructions import Construction as Construction
from .constructions import construction as construction
from .constructions import names as names
from .tables import log_errors as log_errors
from .tables import root_errors as root_errors
from .tables import tanh_errors as tanh_errors
from .tables import theta_errors as theta_errors
