"""Where PyTorch draws first values from. Its generator is not ours, so what is recorded is the distribution: its kind and
bounds, which a sample of PyTorch's own is tested against here, and ours there (Kolmogorov-Smirnov)."""

import torch
from scipy import stats

from recording import Recording

#        initialiser                      arguments                    torch's module or function, giving { name: tensor }
CASES = [
    ("Linear", {"inFeatures": 37, "outFeatures": 211}, lambda: dict(torch.nn.Linear(37, 211).named_parameters())),
    ("Linear", {"inFeatures": 3, "outFeatures": 1500}, lambda: dict(torch.nn.Linear(3, 1500).named_parameters())),
    ("Embedding", {"rows": 90, "width": 70}, lambda: dict(torch.nn.Embedding(90, 70).named_parameters())),
    ("Conv1d", {"inChannels": 4, "outChannels": 300, "kernelSize": 5, "groups": 2},
     lambda: dict(torch.nn.Conv1d(4, 300, 5, groups=2).named_parameters())),
    ("Conv2d", {"inChannels": 3, "outChannels": 200, "kernelSize": [3, 4]},
     lambda: dict(torch.nn.Conv2d(3, 200, (3, 4)).named_parameters())),
    ("kaimingUniform", {"shape": [120, 55], "a": 5 ** 0.5},
     lambda: {"weight": torch.nn.init.kaiming_uniform_(torch.empty(120, 55), a=5 ** 0.5)}),
    ("kaimingUniform", {"shape": [120, 55], "a": 0.0}, lambda: {"weight": torch.nn.init.kaiming_uniform_(torch.empty(120, 55), a=0.0)}),
    ("normalInit", {"shape": [80, 75], "std": 0.02}, lambda: {"weight": torch.nn.init.normal_(torch.empty(80, 75), std=0.02)}),
]


def bound_of(initialiser: str, arguments: dict, shape: torch.Size, weight: torch.Size) -> dict:
    """The distribution PyTorch documents: Linear and Conv draw weights and biases from U(+-1/sqrt(fan_in))."""
    if initialiser == "Embedding":
        return {"kind": "normal", "std": 1.0}
    if initialiser == "normalInit":
        return {"kind": "normal", "std": arguments["std"]}
    fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(weight))
    gain = torch.nn.init.calculate_gain("leaky_relu", arguments["a"]) * 3 ** 0.5 if initialiser == "kaimingUniform" else 1.0
    return {"kind": "uniform", "bound": gain / fan_in ** 0.5}


def attest(label: str, sample: torch.Tensor, law: dict) -> None:
    """PyTorch's own values must come from the distribution that is recorded."""
    values = sample.detach().double().flatten().numpy()
    scale = law["std"] if law["kind"] == "normal" else law["bound"]
    cdf = stats.norm(scale=scale).cdf if law["kind"] == "normal" else stats.uniform(-scale, 2 * scale).cdf
    p = stats.kstest(values, cdf).pvalue
    if p < 1e-6:
        raise RuntimeError(f"{label}: PyTorch's values must come from {law}: p is {p}.")


def record_initialisers(r: Recording) -> None:
    for i, (initialiser, arguments, make) in enumerate(CASES):
        made = make()
        laws = {name: bound_of(initialiser, arguments, t.shape, made["weight"].shape) for name, t in made.items()}
        for name, sample in made.items():
            attest(f"{initialiser} {name}", sample, laws[name])
        shapes = {name: list(t.shape) for name, t in made.items()}
        scales = {name: torch.tensor(law.get("bound", law.get("std"))) for name, law in laws.items()}
        name = f"initialiser {initialiser} {i}"
        r.cases.append({"name": name, "op": "initialiser",
                        "attributes": {"initialiser": initialiser, "arguments": arguments, "laws": laws, "shapes": shapes, "seed": r.seed + i},
                        "inputs": {}, "outputs": {k: r.store(f"{name}/{k}", v) for k, v in scales.items()}})
    for kind, width in ((torch.nn.RMSNorm, 9), (torch.nn.LayerNorm, 9)):
        outputs = {k: r.store(f"initialiser {kind.__name__}/{k}", p) for k, p in kind(width).named_parameters()}
        r.cases.append({"name": f"initialiser {kind.__name__}", "op": "initialiser",
                        "attributes": {"initialiser": kind.__name__, "arguments": {"width": width}}, "inputs": {}, "outputs": outputs})
