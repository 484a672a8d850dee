"""What was computed of a process, kept for as long as the process lives and its path stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from .sde import SDE

T = TypeVar("T")
MOST = 64
"""Results that are kept for one process."""


class Remembered(Generic[T]):
    """Results by process and key. A path whose numbers were changed, or learned, is another one.

    Args: worth, whether a result is to be kept; default all.

    >>> import scoresolve as ss
    >>> remembered, sde = Remembered[float](), ss.VPSDE()
    >>> [remembered.of(sde, None, "rho", lambda: sde.rho(0.5)) == sde.rho(0.5) for sde.beta_max in (20.0, 20.0, 5.0)]
    [True, True, True]
    """

    def __init__(self, worth: Callable[[T], bool] = lambda result: True) -> None:
        self._worth = worth
        self._kept: WeakKeyDictionary[SDE, dict[Any, T]] = WeakKeyDictionary()

    def of(self, sde: SDE, times: np.ndarray | None, key: Any, make: Callable[[], T]) -> T:
        """The result for a process and a key, made if it is not known.

        Args: times, that the result is of, where the path is looked at (default some between t_min and t_max).
        """
        places = np.linspace(sde.t_min, sde.t_max, 7) if times is None else times
        key = key, sde.alpha(places).tobytes(), sde.sigma(places).tobytes()
        try:
            kept = self._kept.setdefault(sde, {})
            if key in kept:
                return kept[key]
        except TypeError:  # an option or a process that cannot be hashed, a process that cannot be referred to weakly
            return make()
        made = make()
        if self._worth(made):
            if len(kept) >= MOST:
                kept.clear()
            kept[key] = made
        return made
