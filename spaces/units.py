"""Which heads and neurons of a group are read from its bank: by name.

`trainers/models/alignment.py` has the orders.
"""

from typing import Annotated, ClassVar

from pydantic import AfterValidator

from sharetune.spaces.registry import Registry

UNITS: Registry[type["Units"]] = Registry("choice of units")


class Units:
    """Base of all choices of units. One that `matches` permutes the units of a group's layers."""

    matches: ClassVar[bool] = True


@UNITS.register("first")
class First(Units):
    """the first units, as they lie"""

    matches = False


@UNITS.register("best-match")
class BestMatch(Units):
    """the units that match best across layers"""


@UNITS.register("importance")
class Importance(Units):
    """the least important units, matched; the important ones stay private"""


UnitsName = Annotated[str, AfterValidator(UNITS.known)]
