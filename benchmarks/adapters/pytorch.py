"""PyTorch as a peer of the bench: `python pytorch.py f32|bf16 THREADS`, spoken to in lines of JSON (process-peer.ts)."""

import json
import os
import sys

import numpy as np
import torch

from pytorch_works import OPS, matmul

IS_BF16 = sys.argv[1] == 'bf16'
THREADS = int(sys.argv[2])
# Unit roundoff of bf16: the bounds of the check widen with it.
BF16_ROUNDOFF = 2.0**-9


def read_work(folder):
    """spec.json, in which {"array": NAME, "type": T} stands for a file of raw values."""

    def array(value):
        if 'array' not in value:
            return value
        kind = np.float32 if value['type'] == 'f32' else np.int32
        return torch.from_numpy(np.fromfile(os.path.join(folder, value['array']), dtype=kind))

    with open(os.path.join(folder, 'spec.json'), encoding='utf8') as file:
        return json.load(file, object_hook=array)


def prepare(spec):
    """The work, or None where PyTorch has no such op. In bf16 it has the products of linear layers alone."""
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
    works = []

    def reply(request):
        verb = request['do']
        if verb == 'work':
            work = prepare(read_work(request['folder']))
            works.append(work)
            if work is None:
                return None
            return {'work': len(works) - 1, **({'roundoff': BF16_ROUNDOFF} if IS_BF16 else {})}
        work = works[request['work']]
        if verb == 'seconds':
            return work.seconds()
        if verb == 'result':
            outputs = work.result()
            for i, y in enumerate(outputs):
                y.astype(np.float32).tofile(os.path.join(request['folder'], f'{i}.out'))
            return len(outputs)
        works[request['work']] = None
        return None

    def send(message):
        print(json.dumps(message), flush=True)

    send({'version': version(), 'threads': torch.get_num_threads()})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            send({'id': request['id'], 'value': reply(request)})
        except Exception as error:  # the bench prints it and leaves this work out
            send({'id': request['id'], 'error': f'{type(error).__name__}: {error}'})


if __name__ == '__main__':
    main()
