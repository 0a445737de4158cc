"""What every result can do: be saved, loaded and tabulated; statistics over images; files that are whole or absent.

`result` holds the base of all results, `similarity` that of comparisons, `statistics` errors and tests, `moments`
streamed sums, `unfinished` work that a killed run left, `writing` whole files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.results.result import Result
    from utilities.results.similarity import Similarity

__all__ = ["Result", "Similarity"]
__getattr__ = hand_on(__name__, {"result": ["Result"], "similarity": ["Similarity"]})
