"""PEFT's bias modes, on a module that has biases: which are trained, what they are called, what they do."""

import torch
from peft import LoraConfig, get_peft_model

from lora_peft import save_adapter
from recording import Recording


class Net(torch.nn.Module):
    """fc2(tanh(fc1 x)), as `Net` of ../family-lora.ts."""

    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(6, 9)
        self.fc2 = torch.nn.Linear(9, 4)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(x)))


def record_biases(r: Recording) -> None:
    for bias in ("none", "all", "lora_only"):
        label = f"bias-{bias}"
        net = Net()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(r.normal(*parameter.shape, std=0.5))
        state = {f"state/{k}": r.store(f"{label}/state/{k}", v) for k, v in net.state_dict().items()}
        model = get_peft_model(net, LoraConfig(r=2, lora_alpha=3, target_modules=["fc1"], bias=bias)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(r.normal(*parameter.shape, std=0.5))
        save_adapter(model, r.directory / label)
        x = r.normal(5, 6)
        out = model(x)
        cotangent = r.normal(*out.shape)
        (out * cotangent).sum().backward()
        plain = lambda name: name.replace(".default", "")  # noqa: E731
        gradients = {plain(k): r.store(f"{label}/gradient/{plain(k)}", p.grad) for k, p in model.named_parameters() if p.requires_grad}
        r.cases.append({
            "name": f"peft {label}", "op": "peft-module", "attributes": {"adapter": label},
            "inputs": {"x": r.store(f"{label}/x", x), **state}, "outputs": {"out": r.store(f"{label}/out", out)},
            "cotangents": {"out": r.store(f"{label}/cotangent", cotangent)}, "gradients": gradients,
        })
