"""A search over parameters with joblib, as scikit-learn does it: the same numbers, on all CPUs that are found."""

import sys

import dispy

try:
    import joblib
    import numpy
except ImportError as missing:
    print(f"{missing.name} is not installed: pip install joblib numpy")
    sys.exit()


def score(values, degree):
    """Mean error of a polynomial that is fitted to one half of the points, at the other half."""
    x, y = values
    fitted = numpy.polynomial.Polynomial.fit(x[::2], y[::2], degree)
    return float(numpy.abs(fitted(x[1::2]) - y[1::2]).mean())


if __name__ == "__main__":
    generator = numpy.random.default_rng(1)
    x = numpy.linspace(-1, 1, 2001)
    values = numpy.array([x, 4 * x**3 - 3 * x + generator.normal(0, 0.05, x.size)])
    degrees = range(12)

    dispy.register_joblib()
    with joblib.parallel_config(backend="dispy", n_jobs=-1):
        errors = joblib.Parallel()(joblib.delayed(score)(values, degree) for degree in degrees)

    best = min(degrees, key=errors.__getitem__)
    print(f"degree {best} fits best: mean error {errors[best]:.3f}")
    assert errors == [score(values, degree) for degree in degrees], "not the numbers that this process gets"
    assert 3 <= best < 8, errors
