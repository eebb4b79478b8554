"""Records what PyTorch, transformers, PEFT and loralib compute, for `pnpm conformance` to compare with.

    python record.py                                    all families, into ../recordings
    python record.py --only ops --seed 7 --out /tmp/r   one family, other inputs, elsewhere
"""

import argparse
import importlib
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402  (after the environment is set)

from recording import HERE, Recording  # noqa: E402

FAMILIES = ("ops", "phi3", "optim", "lora", "trainer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FAMILIES, action="append", help="record this family (may be repeated)")
    parser.add_argument("--seed", type=int, default=20261123, help="seed of all inputs and weights")
    parser.add_argument("--out", type=Path, default=HERE.parent / "recordings", help="folder that gets one folder a family")
    options = parser.parse_args()
    # One thread: torch's sums then have one order, so a second run gives the same bytes.
    torch.set_num_threads(1)
    for family in options.only or FAMILIES:
        torch.manual_seed(options.seed)
        recording = Recording(family, options.seed, options.out)
        importlib.import_module(family).record(recording)
        recording.save()


if __name__ == "__main__":
    main()
