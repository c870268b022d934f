"""GELU for a CPU, where MLX's erf costs two thirds of an encoder's layer."""

import math
from functools import partial
from itertools import accumulate

import mlx.core as mx

# erf(x) = x P(x²) / Q(x²) for |x| <= 4, within float32: the approximation of Eigen and XLA
LIMIT = 4.0
P = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
Q = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03),
    -1.42647390514189e-02,
)


@partial(mx.compile, shapeless=True)
def gelu(x: mx.array) -> mx.array:
    """x Φ(x), as `nn.gelu` to within float32."""
    y = mx.clip(x * math.sqrt(0.5), -LIMIT, LIMIT)
    square = y * y
    return 0.5 * x * (1 + y * _polynomial(P, square) / _polynomial(Q, square))


def _polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    *_, value = accumulate(coefficients, lambda value, next: value * x + next)
    return value
