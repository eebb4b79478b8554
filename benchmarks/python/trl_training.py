"""One fine-tuning with TRL's SFTTrainer and PEFT from token ids: time of training and the held-out loss at its end.

    python trl_training.py --model DIR --adapter DIR --data FILE --steps N --batch N --lr X --dtype f32|bf16 --threads N

FILE: {"train": [[id, ...], ...], "heldOut": [[id, ...], ...]}; every token is trained. Prints one JSON object. Settings are
the fastest that TRL has on a CPU: SDPA, rows of like length in a batch, fused AdamW, no gradient checkpointing, no logging.
"""

import argparse
import json
import os
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import trl
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer


def held_out_loss(model, rows):
    """Mean over all predicted tokens, whatever their row."""
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row])
            logits = model(input_ids=ids).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += len(row) - 1
    return total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["model", "adapter", "data"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_seed(0)
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    with open(options.data, encoding="utf8") as file:
        data = json.load(file)
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="sdpa")
    base.config.use_cache = False
    model = PeftModel.from_pretrained(base, options.adapter, is_trainable=True)
    before = held_out_loss(model, data["heldOut"])
    model.train()
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), max_steps=options.steps, per_device_train_batch_size=options.batch,
        learning_rate=options.lr, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_length=None,
        gradient_checkpointing=False, optim="adamw_torch_fused", logging_strategy="no", save_strategy="no", eval_strategy="no",
        report_to="none", use_cpu=True, bf16=options.dtype == "bf16", train_sampling_strategy="group_by_length", disable_tqdm=True,
        dataset_num_proc=None, seed=0,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict({"input_ids": data["train"]}),
        processing_class=AutoTokenizer.from_pretrained(options.model),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "before": before, "after": held_out_loss(trainer.model, data["heldOut"])}
    print(json.dumps(result | {"version": f"torch {torch.__version__}, trl {trl.__version__}"}), flush=True)


if __name__ == "__main__":
    main()
