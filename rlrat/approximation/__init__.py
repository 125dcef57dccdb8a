"""Build the functions of the paper's proofs as explicit compositions of low-degree rationals (arXiv 2602.12390).

`construction(name, steps)` makes one: a module for PyTorch that also computes in mpmath and counts its constants.
"""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("Construction", "construction", "names"), "constructions"),
        **dict.fromkeys(("Network", "pole_pair", "relu_parabolas", "relu_quotient", "smooth_quotient"), "converse"),
        **dict.fromkeys(("bernstein_rho", "best_polynomial"), "polynomials"),
        **dict.fromkeys(("log_errors", "root_errors", "tanh_errors", "theta_errors"), "tables"),
    },
)
