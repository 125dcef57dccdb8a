"""The activation registry under the name that users know: this module is `rlrat.networks.activations`."""

import sys

from rlrat.networks import activations

sys.modules[__name__] = activations
