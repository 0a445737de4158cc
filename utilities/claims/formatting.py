"""Format values with their standard errors, as claims state them."""

from __future__ import annotations


def with_error(value: float, error: float, form: str = ".3f", error_form: str | None = None, *, pm: str = "±") -> str:
    """Format a value and its standard error.

    Args:
        value: The value.
        error: Its standard error; None states the value alone.
        form: Format of the value.
        error_form: Format of the error; None is that of the value, without a sign.
        pm: What stands between them.

    Example:
        >>> with_error(0.5, 0.02), with_error(0.5, 0.0213, "+.3g", ".2g", pm="+-")
        ('0.500 ± 0.020', '+0.5 +- 0.021')
    """
    return f"{value:{form}} {pm} {error:{error_form or form.lstrip('+')}}"


def percent(value: float, error: float, unit: str = "%", form: str = ".1f", *, pm: str = "±") -> str:
    """Format a share, or a difference of two, and its standard error in percent.

    Example:
        >>> percent(0.123, 0.01), percent(0.123, 0.01, " points", "+.1f")
        ('12.3 ± 1.0%', '+12.3 ± 1.0 points')
    """
    return f"{with_error(100 * value, 100 * error, form, pm=pm)}{unit}"


def percent_points(value: float, error: float) -> str:
    """Format a difference of two shares and its standard error in percent points.

    Example:
        >>> percent_points(0.123, 0.01)
        '12.3 +- 1.0 percent points'
    """
    return percent(value, error, " percent points", pm="+-")
