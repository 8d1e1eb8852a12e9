"""The words of qpeft and the shapes behind them.

Conventions, each held by a test with an asymmetric circuit: qubit 0 is the leftmost bit of a basis
state, a rotation is R_P(t) = exp(-i t P / 2), angles are in radians.

    inputs          (*blocks, rows, n_inputs)   angles that come from data, one set a row
    weights         (*blocks, n_weights)        angles that are trained, the same for every row
    expectations    (*blocks, rows, n_observables), in [-1, 1]

`rows` is batch x sequence; `blocks` are circuits of one shape that do not interact.
"""

from jaxtyping import Float
from torch import Tensor

Inputs = Float[Tensor, "*blocks rows n_inputs"]
Weights = Float[Tensor, "*blocks n_weights"]
Expectations = Float[Tensor, "*blocks rows n_observables"]

__all__ = ["Expectations", "Inputs", "Weights"]
