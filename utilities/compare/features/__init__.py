"""Features of one model kept on disk, with the names of their images, to be compared later and elsewhere.

`saving` writes a folder of memory maps, `folder` opens it, `reading` plays it back to a comparison, `rows` pairs images
by their names.
"""

from utilities.compare.features.folder import KeptFeatures, open_features
from utilities.compare.features.saving import disk_needed, save_features

__all__ = ["KeptFeatures", "disk_needed", "open_features", "save_features"]
