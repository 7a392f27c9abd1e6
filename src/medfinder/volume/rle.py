"""DICOM RLE (PackBits of byte planes) → arrays, compiled and bound-checked.

Source:
    DICOM PS3.5 annex G.
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.compiled import compiled


def decode(data: bytes, out: npt.NDArray[Any]) -> bool:
    """Decode one frame into `out`, C-contiguous, little endian integers.

    Returns:
        Whether the data fill `out`; False for anything truncated or damaged.
    """
    size = out.itemsize
    if len(data) < 64:
        return False
    n_segments, *offsets = struct.unpack_from("<16I", data)
    if n_segments != size:
        return False
    source = np.frombuffer(data, np.uint8)
    target = out.reshape(-1).view(np.uint8)
    ends = [*offsets[1:size], len(data)]
    for k, (start, end) in enumerate(zip(offsets[:size], ends, strict=True)):
        if not 64 <= start <= end <= len(data):
            return False
        # segments run from the most significant byte down
        if not _unpack(source[start:end], target[size - 1 - k :: size]):
            return False
    return True


def _unpack_python(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> bool:
    pos, done = 0, 0
    while done < target.size:
        if pos + 1 >= source.size:
            return False
        head = int(source[pos])
        pos += 1
        if head < 128:
            n = head + 1
            if pos + n > source.size or done + n > target.size:
                return False
            for i in range(n):
                target[done + i] = source[pos + i]
            pos += n
        elif head > 128:
            n = 257 - head
            if done + n > target.size:
                return False
            for i in range(n):
                target[done + i] = source[pos]
            pos += 1
        else:
            n = 0
        done += n
    return True


_unpack = compiled(_unpack_python)
