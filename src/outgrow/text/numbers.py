"""Numbers as a person reads them: three digits and a unit."""

from __future__ import annotations


def amount(value: float) -> str:
    """A count with a unit: three digits are enough to compare.

    >>> amount(806784), amount(1.9e13), amount(512)
    ('807 K', '19.0 T', '512')
    """
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= 0.9995 * size:
            return (
                f"{value / size:.3g} {unit}"
                if value / size >= 99.95
                else f"{value / size:.{_digits(value / size)}f} {unit}"
            )
    return f"{value:.0f}"


def _digits(value: float) -> int:
    return 2 if value < 9.995 else 1


def counted(count: int, what: str) -> str:
    """A count of things, one of them without an s.

    >>> counted(1, "seed"), counted(1200, "seed")
    ('1 seed', '1,200 seeds')
    """
    return f"{count:,} {what}{'s' * (count != 1)}"


def duration(seconds: float | None) -> str:
    """Time as a person says it.

    >>> duration(75), duration(3.21), duration(8000), duration(None)
    ('1 min 15 s', '3.2 s', '2 h 13 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
