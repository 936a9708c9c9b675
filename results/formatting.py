"""Write numbers for people: with units, prefixes and as many digits as they need."""

from math import floor, isfinite, log10

from sharetune.spaces.objectives import Objective

MINUS = "\N{MINUS SIGN}"
"""Sign of negative numbers, as wide as a plus."""

THIN = "\N{NARROW NO-BREAK SPACE}"
"""Space between a number and its unit."""

SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
"""Scales and their SI prefixes, the largest first."""

POINT = 0.01
"""One percentage point, as a fraction."""

SHORT_TITLES = {"flops": "FLOPs", "stack_parameters": "stack parameters"}
"""Titles for axes and columns, of objectives whose own are long."""


def short_title(objective: Objective) -> str:
    """Return the objective's title for places with little room."""
    return SHORT_TITLES.get(objective.name, objective.title)


def is_fraction(objective: Objective) -> bool:
    """Return whether the objective lies in 0..1 and is shown in percent: accuracy, macro-F1."""
    return objective.in_percent


def quantity(objective: Objective, value: float) -> str:
    """Write a value with its unit: ``91.2 %``, ``22.7 M``, ``12.3 ms``; a dash for NaN."""
    if not isfinite(value):
        return "\N{EN DASH}"
    if is_fraction(objective):
        return f"{percent(value)}{THIN}%"
    number, prefix = _scaled(value)
    unit = f"{prefix}{objective.unit}"
    return f"{number}{THIN}{unit}" if unit else number


def difference(objective: Objective, value: float, base: float) -> str:
    """Write the signed difference of `value` from `base`: ``+0.4 points``, ``−7.5 M``, ``0``.

    It has the digits that `base` is shown with; a dash where either is NaN.
    """
    if not (isfinite(value) and isfinite(base)):
        return "\N{EN DASH}"
    number, unit = _distance(objective, value, base)
    if float(number) == 0:
        return "0"
    return f"{'+' if value > base else MINUS}{number}{unit}"


def distance(objective: Objective, value: float, base: float) -> str:
    """Write the difference of `value` from `base` without its sign: ``0.4 points``."""
    return "".join(_distance(objective, value, base))


def _distance(objective: Objective, value: float, base: float) -> tuple[str, str]:
    """Return the number and the unit of a distance, to the last digit `base` is shown with."""
    step, scale, unit = _shown_as(objective, base, abs(value - base))
    rounded = round(abs(value - base) / step) * step
    return f"{rounded / scale:.{max(0, round(log10(scale / step)))}f}", unit


def _shown_as(objective: Objective, base: float, change: float) -> tuple[float, float, str]:
    """Return the last digit that `base` is shown with, and the change's scale and unit."""
    if is_fraction(objective):
        return POINT / 10, POINT, f"{THIN}points"
    of_base, _ = _scale(base)
    scale, prefix = _scale(change)
    unit = f"{prefix}{objective.unit}"
    return of_base / 10 ** _decimals(base / of_base), scale, f"{THIN}{unit}" if unit else ""


def margin(objective: Objective, points: float) -> str:
    """Write the margin of :meth:`Objective.near`: ``1 point``, ``0.5 points``, or ``1 %``."""
    if objective.point is None:
        return f"{points:g}{THIN}%"
    return f"{points:g} point{'' if points == 1 else 's'}"


def ratio(value: float, base: float) -> str:
    """Write `value` as a multiple of `base`: ``0.66×``; a dash where it is not defined."""
    if not (isfinite(value) and isfinite(base)) or base == 0:
        return "\N{EN DASH}"
    return f"{value / base:.2f}×"


def bare(objective: Objective, value: float) -> str:
    """Write a value without its unit, which the text states elsewhere: ``91.2``, ``47.0``."""
    return percent(value) if objective.in_percent else three_digits(value)


def percent(fraction: float) -> str:
    """Write a fraction (0..1) in percent, to one decimal, without the sign %: ``91.2``."""
    return f"{100 * fraction:.1f}"


def percentage(fraction: float, form: str = ".0%") -> str:
    """Write a fraction in percent with the sign %, by the format `form`: ``5 %``, ``−26 %``."""
    return format(fraction, form).replace("-", MINUS).replace("%", f"{THIN}%")


def setting(value: float) -> str:
    """Write a searched number to three digits: ``0.3``, ``5``, ``1e−6``."""
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS) if exponent else mantissa


def duration(seconds: float) -> str:
    """Write seconds as ``42 s``, ``3 min 20 s`` or ``2 h 05 min``; a dash for NaN."""
    if not isfinite(seconds):
        return "\N{EN DASH}"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}{THIN}s" if seconds < 10 else f"{whole}{THIN}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest}{THIN}s"
    hours, rest = divmod(minutes, 60)
    return f"{hours}{THIN}h {rest:02d}{THIN}min"


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: ``1 trial``, ``2 trials``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _scaled(value: float) -> tuple[str, str]:
    scale, prefix = _scale(value)
    return three_digits(value / scale), prefix


def _scale(value: float) -> tuple[float, str]:
    return next(((scale, prefix) for scale, prefix in SI if abs(value) >= scale), (1.0, ""))


def three_digits(value: float) -> str:
    """Write a number to three significant digits, whole numbers up to 999 as they are."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    """Return the number of decimals (0..4) that shows three significant digits."""
    if value == 0:
        return 0
    return min(max(2 - floor(log10(abs(value))), 0), 4)
