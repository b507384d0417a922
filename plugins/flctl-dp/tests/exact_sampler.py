"""The exact discrete Gaussian sampler of Canonne, Kamath and Steinke (2020), Algorithms 1 to 3: whole numbers and coins
only. Slow, and what the fast one is held to."""

from fractions import Fraction


def bernoulli_exp(gamma: Fraction, below) -> bool:
    """True with probability exp(-gamma), Algorithm 1; `below(n)` is uniform on 0 ... n - 1."""
    while gamma > 1:
        if not bernoulli_exp(Fraction(1), below):
            return False
        gamma -= 1
    k = 1
    while below(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1


def discrete_laplace(t: int, below) -> int:
    """P(x) proportional to exp(-|x| / t), Algorithm 2 with s = 1."""
    while True:
        u = below(t)
        if not bernoulli_exp(Fraction(u, t), below):
            continue
        v = 0
        while bernoulli_exp(Fraction(1), below):
            v += 1
        x, negative = u + t * v, below(2) == 1
        if not (negative and x == 0):
            return -x if negative else x


def discrete_gaussian(sigma2: Fraction, below) -> int:
    """P(x) proportional to exp(-x^2 / 2 sigma2), Algorithm 3."""
    t = int(float(sigma2) ** 0.5) + 1
    while True:
        y = discrete_laplace(t, below)
        if bernoulli_exp((abs(y) - sigma2 / t) ** 2 / (2 * sigma2), below):
            return y
