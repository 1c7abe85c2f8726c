"""Where a Redis Cluster keeps a key: the slot of its hash tag.

Source: Redis documentation, "Redis cluster specification", key distribution model and hash tags.
"""

import binascii

SLOTS = 16_384


def slot_of(key: str) -> int:
    """The slot of a key: the CRC16 of its hash tag, or of all of it where it has none."""
    begin = key.find("{")
    end = key.find("}", begin + 1)
    tag = key[begin + 1 : end] if begin >= 0 and end > begin + 1 else key
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


def beside(tag: str, name: str) -> str:
    """The name of a lock that a Cluster keeps where it keeps the keys with a tag.

    A lock's keys put its name in braces, so the tag's own first one falls away, and its last one
    ends the tag: `{sale:1}` and `door` become the lock `sale:1}:door`, with the key
    `lock:{sale:1}:door}`.

    Args:
        tag: with its braces.
        name: of the lock, where there is no Cluster.
    """
    return f"{tag.removeprefix('{')}:{name}"
