"""Radii as fractions of the 255 grey levels, 8/255: from text and as text."""

from fractions import Fraction

from advgan.core.errors import InputError


def parse_fraction(text: str) -> float:
    """'0.3' or '8/255' as a float; parsed, never evaluated. Raises InputError for anything else."""
    try:
        numerator, slash, denominator = str(text).partition("/")
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"expected a number like 0.3 or a fraction like 8/255, got {text!r}") from None


def eps_text(eps: float) -> str:
    """A radius in its usual notation: 0.3, and the float of 8/255 as "8/255", not as 0.03137."""
    short, levels = f"{eps:.6g}", round(255 * eps)
    if float(short) == eps:
        return short
    small, large = (Fraction(eps).limit_denominator(most) for most in (10, 100))
    if levels and levels / 255 == eps and float(small) != eps:
        return f"{levels}/255"
    return str(large) if float(large) == eps else f"{eps:.4g}"
