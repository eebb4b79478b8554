"""PyTorch as a peer of the bench: `python pytorch.py f32|bf16 THREADS`, spoken to in lines of JSON (process-peer.ts)."""

import sys

import torch

from answerer import answer, read_work
from pytorch_works import OPS, matmul

IS_BF16 = sys.argv[1] == 'bf16'
THREADS = int(sys.argv[2])
# Unit roundoff of bf16: the bounds of the check widen with it.
BF16_ROUNDOFF = 2.0**-9


def prepare(folder):
    """The work, or None where PyTorch has no such op. In bf16 it has the products of linear layers alone."""
    spec = read_work(folder, torch.from_numpy)
    if IS_BF16:
        is_linear = spec['op'] == 'matmul' and spec['batch'] == 1 and spec['transposeB'] and not spec['transposeA']
        return matmul(spec, torch.bfloat16) if is_linear else None
    return OPS[spec['op']](spec) if spec['op'] in OPS else None


def version():
    text = f'{torch.__version__} {torch.backends.cpu.get_cpu_capability()}'
    has_amx = getattr(torch.cpu, '_is_amx_tile_supported', lambda: False)()
    return f'{text} AMX' if has_amx and IS_BF16 else text


def main():
    torch.set_num_threads(THREADS)
    introduction = {'version': version(), 'threads': torch.get_num_threads()}
    answer(prepare, introduction, {'roundoff': BF16_ROUNDOFF} if IS_BF16 else {})


if __name__ == '__main__':
    main()
