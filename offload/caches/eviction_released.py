"""The LFU and LIFO that Pre-gated MoE's public code runs, where they differ from the textbook's.

Source: lfu_cache_policy.h and lifo_cache_policy.h of the authors' FasterTransformer fork. Encoder and decoder
share one cache there, and both policies treat what the other stack left behind specially.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from offload.caches.eviction import Key


class ReleasedLfu:
    """Least frequently used, counted while resident; ties go to the one that has had its count longest.

    When the first missing decoder expert enters after an encoder expert, every count falls back to 1, in the order
    of a hash table: no order that means anything. Keys below `n_encoder_keys` are the encoder's.
    """

    def __init__(self, n_encoder_keys: int) -> None:
        self._n_encoder_keys = n_encoder_keys
        self._count: dict[Key, int] = {}
        self._by_count: defaultdict[int, OrderedDict[Key, None]] = defaultdict(OrderedDict)
        self.last_inserted: Key = -1

    def __iter__(self) -> Iterator[Key]:
        """The residents, the first to go first."""
        return (key for count in sorted(self._by_count) for key in self._by_count[count])

    @property
    def counts(self) -> Mapping[Key, int]:
        """The lookups of every resident since it came, or since counts fell back."""
        return self._count

    def insert(self, key: Key) -> None:
        """Enter with a count of 0: the lookup that brought it follows as a `touch`."""
        if key >= self._n_encoder_keys > self.last_inserted >= 0:
            residents = sorted(self._count, key=_scattered)
            self._by_count.clear()
            self._count = dict.fromkeys(residents, 1)
            self._by_count[1] = OrderedDict.fromkeys(residents)
        self.last_inserted = key
        self._count[key] = 0
        self._by_count[0][key] = None

    def touch(self, key: Key) -> None:
        """Count one more lookup of a resident."""
        count = self._count.get(key)
        if count is not None:
            self._drop(key, count)
            self._count[key] = count + 1
            self._by_count[count + 1][key] = None

    def remove(self, key: Key) -> None:
        """Leave; the count is forgotten."""
        self._drop(key, self._count.pop(key))

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The least counted, longest at its count."""
        for count in sorted(self._by_count):
            for key in self._by_count[count]:
                if key not in protected:
                    return key
        return None

    def _drop(self, key: Key, count: int) -> None:
        del self._by_count[count][key]
        if not self._by_count[count]:
            del self._by_count[count]


class ReleasedLifo:
    """Last in, first out; but while the newest and the oldest are of different stacks, the oldest goes.

    Keys below `n_encoder_keys` are the encoder's.
    """

    def __init__(self, n_encoder_keys: int) -> None:
        self._n_encoder_keys = n_encoder_keys
        self._by_age: OrderedDict[Key, None] = OrderedDict()

    def __iter__(self) -> Iterator[Key]:
        """The residents, the oldest first."""
        return iter(self._by_age)

    def insert(self, key: Key) -> None:
        """Enter as the newest."""
        self._by_age[key] = None

    def touch(self, key: Key) -> None:
        """Lookups change nothing."""

    def remove(self, key: Key) -> None:
        """Leave."""
        del self._by_age[key]

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The newest, or the oldest when the two are of different stacks."""
        free = [key for key in self._by_age if key not in protected]
        if not free:
            return None
        oldest, newest = free[0], free[-1]
        mixed = (oldest < self._n_encoder_keys) != (newest < self._n_encoder_keys)
        return oldest if mixed else newest


def _scattered(key: Key) -> int:
    """An order with no meaning, the same everywhere: Knuth's multiplicative hash, 2**32 / golden ratio."""
    return key * 2654435761 % (1 << 32)
