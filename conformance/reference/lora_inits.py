"""Adapters whose first values come from the base: PiSSA, OLoRA, LoftQ.

For each: what PEFT leaves in the base, the product that stands in the adapter, the folder of an adapter that has moved
since (as it was trained, and converted to plain LoRA with path_initial_model_for_weight_conversion), and its logits.
"""

import inspect
import json
import shutil

import peft.tuners.lora.layer as lora_layer
import peft.utils.loftq_utils as loftq_utils
import torch
from peft import LoraConfig, get_peft_model

from lora_peft import save_adapter, set_aside_base
from recording import Recording
from tiny_phi3 import random_batch, store_batch

INITS = {
    "pissa": {"init_lora_weights": "pissa"},
    "pissa-rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "pissa-niter": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "olora-patterns": {"init_lora_weights": "olora", "rank_pattern": {"down_proj": 5}, "alpha_pattern": {"o_proj": 3}},
    "loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
    "loftq-8-bit": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 8, "loftq_iter": 1}},
    "loftq-alternated": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 3}},
}
WATCHED = ("model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.down_proj")
# Rows of whole blocks of 64: elsewhere bitsandbytes' native CPU kernel does not undo its own quantizer (0.50).
BASE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}


def base_model(r: Recording):
    return set_aside_base(r, "base-64", **BASE)


def let_loftq_run_on_cpu() -> None:
    """PEFT's loftq_init moves weights to a GPU for the decomposition. The same program, with the CPU in its place."""
    source = inspect.getsource(loftq_utils.loftq_init)
    if source.count('"cuda"') != 1:
        raise AssertionError("loftq_init of this PEFT names its device in another way: adapt let_loftq_run_on_cpu")
    exec(source.replace('"cuda"', '"cpu"'), loftq_utils.__dict__)
    lora_layer.loftq_init = loftq_utils.loftq_init


def widest_gap(base, low: int = 2, high: int = 6) -> int:
    """The rank after which the singular values of every adapted weight fall most: there the decomposition is well-defined."""
    gaps = torch.stack([torch.linalg.svdvals(p.detach()) for n, p in base.named_parameters() if n.endswith("_proj.weight")])[:, low - 1:high + 1]
    return low + int((1 - gaps[:, 1:] / gaps[:, :-1]).min(dim=0).values.argmax())


def logits_of(model, sequences) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=ids[None]).logits[0] for ids, _ in sequences])


def record_init(r: Recording, label: str, options: dict, rank: int) -> None:
    base = base_model(r)
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules="all-linear", **options)
    model = get_peft_model(base, config).eval()
    sequences = random_batch(r, [6, 4])
    outputs = {"begun/logits": r.store(f"{label}/begun/logits", logits_of(model, sequences))}
    modules = dict(model.base_model.model.named_modules())
    for path in WATCHED:
        layer = modules[path]
        product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        outputs[f"base/{path}"] = r.store(f"{label}/base/{path}", layer.base_layer.weight)
        outputs[f"product/{path}"] = r.store(f"{label}/product/{path}", product)
    first = r.directory / f"{label}-first"
    init = model.peft_config["default"].init_lora_weights
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(first)
    model.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += r.normal(*parameter.shape, std=0.1)
    outputs["logits"] = r.store(f"{label}/logits", logits_of(model, sequences))
    save_adapter(model, r.directory / label)
    if not init.startswith("loftq"):
        save_adapter(model, r.directory / f"{label}-plain", path_initial_model_for_weight_conversion=str(first))
        if json.loads((r.directory / f"{label}-plain" / "adapter_config.json").read_text())["init_lora_weights"] is not True:
            raise AssertionError(f"{label}: PEFT must have converted the adapter to plain LoRA")
    shutil.rmtree(first)
    r.cases.append({"name": f"peft init {label}", "op": "peft-init", "attributes": {"model": "base-64", "adapter": label},
                    "inputs": store_batch(r, label, sequences), "outputs": outputs})


def record_inits(r: Recording) -> None:
    let_loftq_run_on_cpu()
    rank = widest_gap(base_model(r))
    for label, options in INITS.items():
        record_init(r, label, options, rank)
