"""Widgets over the package: choose models and images, run a command, and question what it found.

`request` says what is asked for, as a command and as Python; `job` runs the command; `app` puts the widgets together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.explorer.app import explore

__all__ = ["explore"]
__getattr__ = hand_on(__name__, {"app": ["explore"]})
