"""PEFT on a base in 4 bits (nf4): OLoRA and LoftQ on it, and merging into it."""

import inspect

import peft.utils.loftq_utils as loftq_utils
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, get_peft_model, replace_lora_weights_loftq
from transformers import BitsAndBytesConfig, Phi3ForCausalLM

from lora_inits import WATCHED, base_model, logits_of
from lora_peft import save_adapter
from recording import Recording
from tiny_phi3 import random_batch, store_batch


def quantized_base(r: Recording) -> Phi3ForCausalLM:
    base_model(r)  # its folder
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = Phi3ForCausalLM.from_pretrained(r.directory / "base-64", dtype=torch.float32, attn_implementation="eager", quantization_config=config)
    for module in model.modules():
        # Arithmetic in f32, and codes that stay as they are stored.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model.name_or_path = ""  # a path of this machine; PEFT would write it into adapter_config.json
    return model.eval()


def decoded(layer) -> torch.Tensor:
    weight = getattr(layer, "base_layer", layer).weight
    return dequantize_4bit(weight.data, weight.quant_state).float()


def let_replacing_run_on_cpu() -> None:
    """PEFT decomposes on a GPU. The same program, with the CPU in its place."""
    source = inspect.getsource(loftq_utils._loftq_init_new)
    if source.count('"cuda"') != 1:
        raise AssertionError("_loftq_init_new of this PEFT names its device in another way: adapt let_replacing_run_on_cpu")
    exec(source.replace('"cuda"', '"cpu"'), loftq_utils.__dict__)


def product_of(layer) -> torch.Tensor:
    return layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight


def record_begun(r: Recording, label: str, rank: int, **options) -> None:
    """The adapter right after it was put on: its product, and what is decoded from the base afterwards."""
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules="all-linear", **options)
    model = get_peft_model(quantized_base(r), config).eval()
    if label == "replace-loftq":
        replace_lora_weights_loftq(model, model_path=str(r.directory / "base-64" / "model.safetensors"))
    modules = dict(model.base_model.model.named_modules())
    outputs = {}
    for path in WATCHED:
        outputs[f"product/{path}"] = r.store(f"quantized {label}/product/{path}", product_of(modules[path]))
        outputs[f"base/{path}"] = r.store(f"quantized {label}/base/{path}", decoded(modules[path]))
    r.cases.append({"name": f"peft quantized {label}", "op": "peft-quantized", "attributes": {"model": "base-64", "way": label, "r": rank},
                    "inputs": {}, "outputs": outputs})


def record_merged(r: Recording, rank: int) -> None:
    """merge_and_unload on the quantized base: decoded, added to, quantized again."""
    label = "quantized-merge"
    model = get_peft_model(quantized_base(r), LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(r.normal(*parameter.shape, std=0.1))
    save_adapter(model, r.directory / label)
    sequences = random_batch(r, [6, 4])
    outputs = {"logits": r.store(f"{label}/logits", logits_of(model, sequences))}
    merged = dict(model.merge_and_unload().named_modules())
    for path in WATCHED:
        outputs[f"merged/{path}"] = r.store(f"{label}/merged/{path}", decoded(merged[path]))
    r.cases.append({"name": f"peft {label}", "op": "peft-quantized", "attributes": {"model": "base-64", "way": "merge", "adapter": label},
                    "inputs": store_batch(r, label, sequences), "outputs": outputs})


def record_quantized(r: Recording) -> None:
    let_replacing_run_on_cpu()
    rank = int(r.integers(1, low=2, high=6))
    record_begun(r, "olora", rank, init_lora_weights="olora")
    record_begun(r, "replace-loftq", rank)
    record_merged(r, rank)
