"""Do near-duplicates stay cheap to find in a large dataset, and how many are missed?

Hashes are made up: every 100 pictures are of one camera, whose pictures differ in 21 % of the bits, and every third
picture begins a burst, whose frames differ by a given number of bits from its first. Names tell no order, so that every
link has to be found by sorting. Printed are the seconds and the peak memory of linking and grouping, and for bursts of
each closeness the share of frames whose link to the first frame was found, and whose group is that of the first frame.

    python benchmarks/near_duplicates.py [--pictures 10000 100000 1000000]

Target: 100,000 pictures in ten seconds, ten times the time for ten times the pictures.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time

import numpy as np
import scipy

from ena24ssd.neighbours import BITS, SCENE, find_links, group_linked

BURST = 3
CAMERA = 99  # pictures, whole bursts
CLOSENESS = (4, 8, 16, 24, 32, 40, 46)  # bits by which the frames of a burst differ from its first


def made_up(pictures: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (n, 4) uint64 of bursts, and by how many bits each frame differs from the first of its burst (n,)."""
    bursts = pictures // BURST
    cameras = random.integers(0, 2, (bursts * BURST // CAMERA + 1, BITS), dtype=np.uint8)
    hashes = np.empty((bursts, BURST, 4), dtype=np.uint64)
    apart = np.zeros((bursts, BURST), dtype=np.int64)
    apart[:, 1:] = random.choice(CLOSENESS, bursts)[:, None]
    shuffles = random.permuted(np.tile(np.arange(BITS, dtype=np.uint8), (5_000, 1)), axis=1)
    for begin in range(0, bursts, 10_000):  # as bits, a million pictures would take gigabytes
        chosen = np.arange(begin, min(begin + 10_000, bursts))
        first = cameras[chosen * BURST // CAMERA] ^ (random.random((len(chosen), BITS), dtype=np.float32) < 0.12)
        for frame in range(BURST):
            ranks = shuffles[random.integers(len(shuffles), size=len(chosen))]
            bits = first ^ (ranks < apart[chosen, frame, None])
            hashes[chosen, frame] = np.packbits(bits, axis=1).view(np.uint64)
    return hashes.reshape(-1, 4), apart.reshape(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[10_000, 100_000])
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}, one thread")
    for pictures in parser.parse_args().pictures:
        random = np.random.default_rng(0)
        hashes, apart = made_up(pictures, random)
        count = len(hashes)
        order = random.permutation(count)
        there = np.ones(count, dtype=bool)
        begin = time.perf_counter()
        links = find_links(hashes, there, there, order)
        linked = time.perf_counter()
        labels, cut = group_linked(hashes, order, links, max(12, count // 5))
        grouped = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{count:,} pictures: {linked - begin:.2f} s to link ({len(links):,} links), {grouped - linked:.2f} s to "
            f"group ({labels.max() + 1:,} groups, {cut} links cut), peak {peak:,.0f} MB"
        )
        first = np.arange(count) // BURST * BURST
        pairs = np.concatenate([links.first * count + links.second, links.second * count + links.first])
        found = np.isin(first * count + np.arange(count), pairs)
        for bits in CLOSENESS:
            frames = apart == bits
            print(
                f"  {bits:3d} of {BITS} bits apart (limit {SCENE.anywhere}): {found[frames].mean():7.2%} linked, "
                f"{(labels == labels[first])[frames].mean():7.2%} in one group"
            )


if __name__ == "__main__":
    main()
