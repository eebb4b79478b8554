"""The works of peer.ts in PyTorch, each as a user of it, transformers or PEFT writes it; of several ways the faster counts."""

import time

import torch
import torch.nn.functional as F


class Work:
    """`call(turn)` does the work once and returns its outputs."""

    def __init__(self, call, turns=1, result=None, grad=False):
        self.call, self.turns, self.turn, self.grad = call, turns, 0, grad
        self.first = result or (lambda: call(0))

    def run(self):
        self.call(self.turn % self.turns)
        self.turn += 1

    def seconds(self):
        """Mean of calls that last 0.1 s together, or of one; the best of three such where that is short."""
        with torch.set_grad_enabled(self.grad):
            self.run()
            start = time.perf_counter()
            self.run()
            once = time.perf_counter() - start
            count = max(1, round(0.1 / max(once, 1e-7)))
            best = once
            for _ in range(3 if count > 1 else 0):
                start = time.perf_counter()
                for _ in range(count):
                    self.run()
                best = min(best, (time.perf_counter() - start) / count)
            return best

    def result(self):
        with torch.set_grad_enabled(self.grad):
            return [y.detach().float().contiguous().numpy().ravel() for y in self.first()]


def faster(*works):
    """Of several ways to do the same, the one that is faster here."""
    return min(works, key=lambda work: work.seconds())


def forward_backward(spec, f, inputs, gradient=None):
    """f(*inputs), with gradients of all inputs where the spec asks for both."""
    if spec['direction'] == 'forward':
        return Work(lambda _: [f(*inputs)])
    leaves = [x.requires_grad_() for x in inputs]

    def call(_):
        y = f(*leaves)
        return [y, *torch.autograd.grad(y, leaves, gradient)]

    return Work(call, grad=True)


def matmul(spec, dtype=torch.float32):
    batch, m, k, n = spec['batch'], spec['m'], spec['k'], spec['n']
    lead = [] if batch == 1 else [batch]
    ta, tb = spec['transposeA'], spec['transposeB']
    a = spec['a'].view(*lead, *((k, m) if ta else (m, k))).to(dtype)
    bs = [b.view(*lead, *((n, k) if tb else (k, n))).to(dtype) for b in spec['b']]
    if not ta and tb and batch == 1:
        return Work(lambda i: [F.linear(a, bs[i])], len(bs))
    x = a.mT if ta else a
    ws = [b.mT if tb else b for b in bs]
    return Work(lambda i: [torch.matmul(x, ws[i])], len(ws))


def attention(spec):
    heads, width, queries, keys = (spec[name] for name in ('heads', 'width', 'queries', 'keys'))

    def headed(x, rows):  # [rows, heads, width] -> [1, heads, rows, width]
        return x.view(rows, heads, width).transpose(0, 1).unsqueeze(0).contiguous()

    mask = None
    if 1 < queries < keys:
        mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)

    def f(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=queries > 1 and mask is None)

    def rows_first(ys):
        return [y.squeeze(0).transpose(0, 1) for y in ys]

    q = headed(spec['q'], queries)
    ks = [headed(k, keys) for k in spec['k']]
    vs = [headed(v, keys) for v in spec['v']]
    if spec['direction'] == 'forward':
        return Work(lambda i: [f(q, ks[i], vs[i])], len(ks), lambda: rows_first([f(q, ks[0], vs[0])]))
    work = forward_backward(spec, f, [q, ks[0], vs[0]], headed(spec['gradient'], queries))
    return Work(work.call, 1, lambda: rows_first(work.call(0)), grad=True)


def rms_norm(spec):
    width, eps = spec['width'], spec['eps']
    x, g = (spec[name].view(spec['rows'], width) for name in ('x', 'gradient'))
    inputs = [x, spec['weight']]

    def phi3(x, w):  # Phi3RMSNorm of transformers
        return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

    ways = [lambda x, w: F.rms_norm(x, (width,), w, eps), phi3]
    return faster(*(forward_backward(spec, f, inputs, g) for f in ways))


def swiglu(spec):
    gate, up, g = (spec[name].view(spec['rows'], spec['width']) for name in ('gate', 'up', 'gradient'))
    return forward_backward(spec, lambda a, b: F.silu(a) * b, [gate, up], g)


def rope(spec):
    shape = (spec['tokens'], spec['heads'], spec['width'])
    half = shape[2] // 2
    x, g = spec['x'].view(shape), spec['gradient'].view(shape)
    cos, sin = (spec[name].view(shape[0], 1, half).repeat(1, 1, 2) for name in ('cos', 'sin'))

    def f(x):  # apply_rotary_pos_emb of transformers
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin

    return forward_backward(spec, f, [x], g)


def softmax(spec):
    x, g = (spec[name].view(spec['rows'], spec['width']) for name in ('x', 'gradient'))
    return forward_backward(spec, lambda x: F.softmax(x, -1), [x], g)


def cross_entropy(spec):
    labels = spec['labels'].long()
    return forward_backward(spec, lambda x: F.cross_entropy(x, labels), [spec['logits'].view(spec['rows'], -1)])


def linear_cross_entropy(spec):
    labels, w = spec['labels'].long(), spec['w'].view(spec['classes'], -1)
    return forward_backward(spec, lambda x: F.cross_entropy(F.linear(x, w), labels), [spec['x'].view(spec['rows'], -1)])


def adamw(spec):
    options = dict(lr=spec['lr'], betas=tuple(spec['betas']), eps=spec['eps'], weight_decay=spec['weightDecay'])

    def way(**flags):
        def fresh():
            p = spec['parameter'].clone().requires_grad_()
            p.grad = spec['gradient'].clone()
            return p, torch.optim.AdamW([p], **options, **flags)

        def result():
            p, optimizer = fresh()
            optimizer.step()
            return [p]

        _, timed = fresh()
        return Work(lambda _: timed.step(), result=result)

    return faster(way(foreach=True), way(fused=True))


MAPS = {
    'copy': torch.clone,
    'exp': torch.exp,
    'log': torch.log,
    'tanh': torch.tanh,
    'sigmoid': torch.sigmoid,
    'sin': torch.sin,
    'cos': torch.cos,
    'silu': F.silu,
    'gelu': F.gelu,
}


def map_(spec):
    x = spec['x']
    if spec['map'] == 'add':
        return Work(lambda _: [torch.add(x, spec['y'])])
    return Work(lambda _: [MAPS[spec['map']](x)])


def sum_(spec):
    x = spec['x'].view(spec['rows'], spec['width'])
    return Work(lambda _: [x.sum() if spec['axis'] == 'all' else x.sum(spec['axis'])])


def mlp_step(spec):
    x, labels = spec['x'].view(spec['batch'], -1), spec['labels'].long()

    def fresh():
        layers = []
        for w, b in zip(spec['weights'], spec['biases']):
            linear = torch.nn.Linear(w.numel() // b.numel(), b.numel())
            linear.weight.data, linear.bias.data = w.view(b.numel(), -1).clone(), b.clone()
            layers += [linear, torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1])
        optimizer = torch.optim.SGD(model.parameters(), lr=spec['lr'])

        def step(_):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            return [loss]

        return step

    def result():
        step = fresh()
        return [torch.stack([step(0)[0].detach() for _ in range(2)])]

    return Work(fresh(), result=result, grad=True)


def dropout(spec):
    x = spec['x'].view(spec['rows'], spec['width'])
    return Work(lambda _: [F.dropout(x, spec['p'], training=True)])


OPS = {
    'matmul': matmul,
    'attention': attention,
    'rmsNorm': rms_norm,
    'swiglu': swiglu,
    'rope': rope,
    'softmax': softmax,
    'dropout': dropout,
    'crossEntropy': cross_entropy,
    'linearCrossEntropy': linear_cross_entropy,
    'adamw': adamw,
    'map': map_,
    'sum': sum_,
    'mlpStep': mlp_step,
}
