"""Records what PyTorch, transformers, PEFT, TRL, bitsandbytes and datasets compute, for `pnpm conformance` to compare with.

    python3 record.py --setup                           makes .venv here from requirements.txt, then records all families
    python record.py                                    all families, into ../recordings
    python record.py --only ops --seed 7 --out /tmp/r   one family, other draws, elsewhere

A family is a program FAMILY.py here with `record(recording)`; its parts are FAMILY_*.py. Each family runs in a process of
its own, so none sees what another one imported or set.
"""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# In the order of ../families.ts, which says what each one promises.
FAMILIES = tuple(
    family
    for family in ("ops", "nn", "phi3", "tokenizer", "lora", "quantization", "trainer", "data", "runs", "optim")
    if (HERE / f"{family}.py").exists()
)
DEFAULT_SEED = 20261123


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FAMILIES, action="append", help="record this family (may be repeated)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of everything drawn: inputs, weights, shapes, configurations")
    parser.add_argument("--out", type=Path, default=HERE.parent / "recordings", help="folder that gets one folder a family")
    parser.add_argument("--runs", type=int, default=10, help="how many whole runs the family `runs` draws")
    parser.add_argument("--setup", action="store_true", help="make .venv beside this file from requirements.txt first, and record with it")
    return parser.parse_args()


def set_up() -> str:
    """Makes the environment and returns its Python."""
    place = HERE / ".venv"
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt")], check=True)
    return str(python)


def record(family: str, options: argparse.Namespace) -> None:
    import random

    import numpy
    import torch

    from recording import Recording

    # One thread: torch's sums then have one order, so a second run gives the same bytes.
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    numpy.random.seed(options.seed % 2**32)
    recording = Recording(family, options.seed, options.out, runs=options.runs)
    importlib.import_module(family).record(recording)
    recording.save()


def main() -> int:
    # Nothing here may ask a network, and no count of cores may change a sum.
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
    options = parse_options()
    families = options.only or list(FAMILIES)
    if len(families) == 1 and not options.setup:
        record(families[0], options)
        return 0
    python = set_up() if options.setup else sys.executable
    failed = []
    for family in families:
        command = [python, __file__, "--only", family, "--seed", str(options.seed), "--out", str(options.out), "--runs", str(options.runs)]
        if subprocess.run(command).returncode != 0:
            failed.append(family)
    if failed:
        print(f"record: these families could not be recorded: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
