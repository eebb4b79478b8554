"""Threefry-2x32-20 (Salmon et al., SC 2011) and the keys that packages/tensor/src/random.ts folds from it.

Written a second time, from the paper, so that Python can draw the same dropout masks, noise and first weights as we do: then a run
with them can be compared step by step, and no weight has to be recorded. Checked against Random123's published answers.
"""

import numpy as np

WORD = 0xFFFFFFFF
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)

# Random123 1.14, tests/kat_vectors, threefry2x32 20: (counter, key, answer)
KNOWN = [((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
         ((WORD, WORD), (WORD, WORD), (0x1CB996FC, 0xBB002BE7)),
         ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0))]


def threefry(counter: tuple, key: tuple[int, int]) -> tuple:
    """Two words for a counter of two words; words may be arrays of uint64 that hold 32 bits."""
    schedule = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    a, b = (counter[0] + key[0]) & WORD, (counter[1] + key[1]) & WORD
    for i in range(20):
        a = (a + b) & WORD
        turn = ROTATIONS[i % 8]
        b = ((b << turn | b >> (32 - turn)) & WORD) ^ a
        if i % 4 == 3:
            s = i // 4 + 1
            a = (a + schedule[s % 3]) & WORD
            b = (b + schedule[(s + 1) % 3] + s) & WORD
    return a, b


for known_counter, known_key, answer in KNOWN:
    assert threefry(known_counter, known_key) == answer, "threefry differs from Random123"


def fold(key: tuple[int, int], part: int | str) -> tuple[int, int]:
    """The key of a branch, as RandomKey.fold."""
    if isinstance(part, int):
        return threefry((part & WORD, part >> 32), key)
    units = np.frombuffer(part.encode("utf-16-le"), dtype=np.uint16)
    key = threefry((len(units), 0x5EED), key)
    for i in range(0, len(units), 2):
        key = threefry((int(units[i]), int(units[i + 1]) if i + 1 < len(units) else 0x10000), key)
    return key


def random_key(seed: int, *path: int | str) -> tuple[int, int]:
    """randomKey(seed, ...path)."""
    key = (seed & WORD, seed >> 32)
    for part in path:
        key = fold(key, part)
    return key


def uniforms(key: tuple[int, int], count: int) -> np.ndarray:
    """The first fractions of a key, 24 bits each, as f64 in [0, 1)."""
    counters = np.arange(count, dtype=np.uint64)
    return (threefry((counters, np.zeros_like(counters)), key)[0] >> 8).astype(np.float64) / 2**24
