"""Format numbers as captions, claims and tables state them: values with their standard errors, and counts of things."""

from __future__ import annotations

import math


def counted(count: int, thing: str) -> str:
    """State a number of things, in the singular or the plural.

    Example:
        >>> counted(1, "image"), counted(1540, "image"), counted(0, "image")
        ('1 image', '1,540 images', '0 images')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def with_error(
    value: float,
    error: float | None,
    form: str = ".3f",
    error_form: str | None = None,
    *,
    unit: str = "",
    unknown: str = " (error unknown)",
) -> str:
    """Format a value and its standard error.

    Args:
        value: The value.
        error: Its standard error; None states the value alone. It is NaN where it is not known, as of a single image.
        form: Format of the value.
        error_form: Format of the error; None is that of the value, without a sign.
        unit: What follows the numbers.
        unknown: What is said in place of an error that is not known.

    Example:
        >>> with_error(0.5, 0.02), with_error(0.5, 0.0213, "+.3g", ".2g")
        ('0.500 ± 0.020', '+0.5 ± 0.021')
        >>> with_error(2.5, float("nan"), "+.1f", unit=" pixels"), with_error(2.5, None, ".1f", unit=" pixels")
        ('+2.5 pixels (error unknown)', '2.5 pixels')
    """
    if error is None or math.isnan(error):
        return f"{value:{form}}{unit}{'' if error is None else unknown}"
    return f"{value:{form}} ± {error:{error_form or form.lstrip('+')}}{unit}"


def percent(
    value: float,
    error: float,
    unit: str = "%",
    form: str = ".1f",
    *,
    unknown: str = " (error unknown)",
) -> str:
    """Format a share, or a difference of two, and its standard error in percent; see `with_error`.

    Example:
        >>> percent(0.123, 0.01), percent(0.123, 0.01, " points", "+.1f")
        ('12.3 ± 1.0%', '+12.3 ± 1.0 points')
    """
    return with_error(100 * value, 100 * error, form, unit=unit, unknown=unknown)


def percent_points(value: float, error: float) -> str:
    """Format a difference of two shares and its standard error in percent points.

    Example:
        >>> percent_points(0.123, 0.01)
        '12.3 ± 1.0 percent points'
    """
    return percent(value, error, " percent points")
