"""Name values by a digest, for keys of the storage and files of a cache."""

import hashlib
import json


def digest(value: object) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of `value`, plain data, written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
