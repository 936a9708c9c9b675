"""Turn a candidate into a measured model: share, train, compress, measure, export.

Importing this package makes ``AutoModelFor...from_pretrained`` read shared models.
"""

from sharetune.trainers.loading import load_shared, register_auto_classes
from sharetune.trainers.models.sharing import is_shared, materialize_, share_, share_params

register_auto_classes()

__all__ = ["is_shared", "load_shared", "materialize_", "share_", "share_params"]
