"""One fine-tuning by TRL's SFTTrainer with PEFT, as a configuration in JSON describes it, with everything random drawn as we draw it.

    { seed, model: keys of Phi3Config, peft: arguments of LoraConfig, startB: half width of the first lora_B (0: as PEFT begins),
      rows: [...], split: { test_size, seed } or null, lossOn: null | "all" | "completion" | "assistant",
      training: arguments of SFTConfig }

First weights, dropout masks and NEFTune's noise come from Threefry (threefry.py) under the keys that our own run uses, so nothing
but the configuration has to be recorded for the run to be repeated from the same start.
"""

import contextlib
import json
import math
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import huggingface_hub.hf_api  # noqa: F401, E402  (datasets and huggingface_hub import each other; this order works)
import torch  # noqa: E402
import transformers.integrations.neftune as neftune  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast, PrinterCallback  # noqa: E402
from transformers.utils import logging  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from recording import HERE, Recording  # noqa: E402
from threefry import fold, random_key, uniforms  # noqa: E402

TOKENIZER_PATH = HERE.parents[1] / "packages/tokenizer/src/recordings/llama-like.json"
CHAT_TEMPLATE = (Path(trl.__file__).parent / "chat_templates/phi3.jinja").read_text()
BASE = {
    "vocab_size": 576, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "original_max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "sliding_window": None,
}


def uniform_tensor(key: tuple[int, int], shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
    values = low + (high - low) * uniforms(key, math.prod(shape))
    return torch.from_numpy(values).to(torch.float32).reshape(shape)


def config_json(config: dict) -> dict:
    """config.json as transformers writes it."""
    return json.loads(Phi3Config(**{**BASE, **config["model"]}).to_json_string())


def build_model(config: dict) -> Phi3ForCausalLM:
    """Norms around 1, everything else of variance 1 / inputs: sums of any width are of size 1."""
    model_config = Phi3Config(**{**BASE, **config["model"]})
    model_config._attn_implementation = "eager"
    model = Phi3ForCausalLM(model_config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            width = math.sqrt(3) / math.sqrt(parameter.shape[-1])
            low, high = (0.7, 1.3) if "norm" in name else (-width, width)
            parameter.copy_(uniform_tensor(random_key(config["seed"], "base", name), parameter.shape, low, high))
    return model


def start_adapter(model: torch.nn.Module, config: dict) -> None:
    """lora_A as PEFT spreads it, lora_B within ±startB."""
    with torch.no_grad():
        for name, parameter in trained(model):
            width = config["startB"] if "lora_B" in name else 1 / math.sqrt(parameter.shape[-1])
            parameter.copy_(uniform_tensor(random_key(config["seed"], "adapter", name), parameter.shape, -width, width))


def trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """What is trained, under its name in PEFT's file."""
    return [(name.replace(".default", ""), p) for name, p in model.named_parameters() if p.requires_grad]


class Layout:
    """Where the real tokens of the present micro-batch lie in Python's padded rows, and the key of its randomness."""

    def __init__(self, seed: int):
        self.seed = seed
        self.step, self.micro = 0, -1
        self.real = torch.empty(0, dtype=torch.bool)

    def begin(self, step: int, inputs: dict) -> None:
        self.micro = self.micro + 1 if step == self.step else 0
        self.step = step
        mask = inputs.get("attention_mask")
        self.real = torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask.bool()

    def draw(self, path: str, width: int) -> torch.Tensor:
        """Fractions for the real tokens of [rows, tokens, width], as a padding-free batch [t, width] has them; 0.5 on padding."""
        key = fold(fold(fold(random_key(self.seed, "dropout", self.step), self.micro), path), 0)
        drawn = torch.from_numpy(uniforms(key, int(self.real.sum()) * width)).reshape(-1, width)
        placed = torch.full((*self.real.shape, width), 0.5, dtype=torch.float64)
        placed[self.real] = drawn
        return placed


class KeyedDropout(torch.nn.Module):
    """torch.nn.Dropout with the mask that our layer of that path draws."""

    def __init__(self, p: float, path: str, layout: Layout):
        super().__init__()
        self.p, self.path, self.layout = p, path, layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        kept = self.layout.draw(self.path, x.shape[-1]) >= self.p
        return torch.where(kept, x * (1 / (1 - self.p)), torch.zeros_like(x))


def key_dropouts(model: torch.nn.Module, layout: Layout) -> None:
    for name, module in list(model.named_modules()):
        if name.endswith(".lora_dropout.default") and isinstance(module, torch.nn.Dropout):
            layer = name.removesuffix(".lora_dropout.default")
            model.get_submodule(f"{layer}.lora_dropout")["default"] = KeyedDropout(module.p, layer.removeprefix("base_model.model."), layout)


@contextlib.contextmanager
def keyed_neftune(layout: Layout):
    """transformers' own hook, whose torch draw is ours: its size of the noise stays what it computes."""
    plain, draw = neftune.neftune_post_forward_hook, torch.Tensor.uniform_

    def uniform_(self: torch.Tensor, low, high) -> torch.Tensor:
        return self.copy_(float(low) + (float(high) - float(low)) * layout.draw("model.embed_tokens", self.shape[-1]))

    def hook(module, inputs, output):
        torch.Tensor.uniform_ = uniform_
        try:
            return plain(module, inputs, output)
        finally:
            torch.Tensor.uniform_ = draw

    neftune.neftune_post_forward_hook = hook
    try:
        yield
    finally:
        neftune.neftune_post_forward_hook = plain


class WatchedTrainer(SFTTrainer):
    """SFTTrainer that tells the layout of each micro-batch and keeps what it trained on."""

    layout: Layout
    micro_batches: list[tuple[int, torch.Tensor, torch.Tensor]]
    items: dict[int, int]

    def training_step(self, model, inputs, num_items_in_batch=None):
        step = self.state.global_step + 1
        self.layout.begin(step, inputs)
        real, labels = self.layout.real, inputs["labels"].clone()
        labels[:, 0] = -100  # nothing predicts a row's first token, whatever its label says
        self.micro_batches.append((step, inputs["input_ids"][real].clone(), labels[real]))
        self.items[step] = int(num_items_in_batch)
        return super().training_step(model, inputs, num_items_in_batch)


def make_trainer(config: dict, out: str) -> WatchedTrainer:
    recorded = json.loads(TOKENIZER_PATH.read_text(encoding="utf-8"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(recorded["tokenizerJson"])), eos_token="<|endoftext|>", pad_token="<unk>", chat_template=CHAT_TEMPLATE
    )
    loss_on = {"completion": {"completion_only_loss": True}, "assistant": {"assistant_only_loss": True}, "all": {"completion_only_loss": False}}
    arguments = {
        "bf16": False, "use_cpu": True, "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
        "gradient_checkpointing": False, "dataloader_pin_memory": False, "train_sampling_strategy": "sequential", "optim": "adamw_torch",
        "seed": config["seed"], **loss_on.get(config["lossOn"], {}), **config["training"],
    }
    rows = Dataset.from_list(config["rows"])
    if config["split"]:
        rows = rows.train_test_split(config["split"]["test_size"], seed=config["split"]["seed"])["train"]
    return WatchedTrainer(
        build_model(config), SFTConfig(output_dir=out, **arguments), train_dataset=rows, processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **config["peft"]),
    )


def run(config: dict, nudge: float = 0.0) -> WatchedTrainer:
    """The configuration, trained. `nudge`: how far each weight is moved first, as a part of itself, at most."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as out:
        trainer = make_trainer(config, out)
        trainer.remove_callback(PrinterCallback)
        trainer.layout, trainer.micro_batches, trainer.items = Layout(config["seed"]), [], {}
        start_adapter(trainer.model, config)
        key_dropouts(trainer.model, trainer.layout)
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters() if nudge else ():
                parameter.mul_(1 + uniform_tensor(random_key(config["seed"], "nudge", name), parameter.shape, -nudge, nudge))
        with keyed_neftune(trainer.layout):
            trainer.train()
    return trainer


def losses(trainer: WatchedTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def record_run(r: Recording, name: str, config: dict, trainer: WatchedTrainer | None = None) -> None:
    """Records loss, gradient norm, rate and counts of every step of a run, the first tokens, and the adapter."""
    trainer = trainer or run(config)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    steps = len(log)
    seen = {
        "loss": losses(trainer),
        "gradNorm": [entry["grad_norm"] for entry in log],
        "learningRate": [entry["learning_rate"] for entry in log],
        "trainedTokens": [float(trainer.items[step + 1]) for step in range(steps)],
        "totalTokens": [float(entry["num_tokens"]) for entry in log],
    }
    outputs = {k: r.store(f"{name}/{k}", torch.tensor(v, dtype=torch.float64)) for k, v in seen.items()}
    # The batches of the first steps show how rows became tokens, labels and packs.
    first = [batch for batch in trainer.micro_batches if batch[0] <= 4]
    for key, at in (("ids", 1), ("labels", 2)):
        outputs[key] = r.store(f"{name}/{key}", torch.cat([batch[at] for batch in first]))
    outputs |= {f"parameter/{k}": r.store(f"{name}/parameter/{k}", p) for k, p in trained(trainer.model)}
    attributes = {**config, "model": config_json(config), "chatTemplate": CHAT_TEMPLATE, "steps": steps}
    r.cases.append({"name": name, "op": "SFTTrainer", "attributes": attributes, "inputs": {}, "outputs": outputs})
    print(f"{name}: {steps} steps, loss {seen['loss'][0]:.4f} to {seen['loss'][-1]:.4f}")
