"""How numbers and identifiers are written on pages and in terminal tables."""

from liveedit_core.evaluation.statistics import Interval

_MINUS = "\N{MINUS SIGN}"
_DASH = "\N{EN DASH}"


def spell(name: str) -> str:
    """ "text_locality" -> "text locality"."""
    return "teacher-forced" if name == "teacher_forced" else name.replace("_", " ")


def count(number: int | None) -> str:
    """1234 -> "1,234"; a dash for None."""
    return _DASH if number is None else f"{number:,}"


def number(value: float | None, num_digits: int = 2) -> str:
    """1.2345 -> "1.23"; a dash for None."""
    return "-" if value is None else f"{value:,.{num_digits}f}"


def percent(fraction: float | None, unit: str = " %") -> str:
    """0.974 -> "97.4 %"; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}{unit}"


def interval(bounds: Interval, num_digits: int = 1, separator: str = " to ") -> str:
    """The bounds of a fraction in percent: "95.1 to 98.2"."""
    return separator.join(f"{100 * end:.{num_digits}f}" for end in (bounds.low, bounds.high))


def points(fraction: float) -> str:
    """A difference in percentage points, with a sign."""
    rounded = round(100 * fraction, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", _MINUS)


def p_value(value: float) -> str:
    """0.00004 -> "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """75.3 -> "1 min 15 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
