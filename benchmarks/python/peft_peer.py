"""transformers + PEFT as a peer of the bench: LoRA steps and greedy generation from the same files as ours.

    python peft_peer.py serve --dtype f32|bf16 --rows padded|packed --threads N    lines of JSON (process-peer.ts)
    python peft_peer.py once FOLDER --dtype ... --steps 3                          one JSON object: losses, seconds, peak memory

SDPA, AdamW in one fused kernel, clipping at norm 1, no dropout. 'padded' fills rows to the longest of their batch, as the
usual collators do; 'packed' lays a batch out as one row with position ids, which keeps rows apart (padding-free).
"""

import argparse
import json
import os
import re
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from answerer import answer, read_work
from peft import PeftModel
from transformers import AutoModelForCausalLM, __version__ as transformers_version
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def peak_bytes():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1)) * 1024


def padded(rows):
    longest = max(len(row["ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        n = len(row["ids"])
        ids[i, :n], mask[i, :n], labels[i, :n] = torch.tensor(row["ids"]), 1, torch.tensor(row["labels"])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed(rows):
    """The first label of each row is dropped, so that no row predicts the next one's start."""
    ids = [i for row in rows for i in row["ids"]]
    positions = [i for row in rows for i in range(len(row["ids"]))]
    labels = [label if i else -100 for row in rows for i, label in enumerate(row["labels"])]
    return {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions]), "labels": torch.tensor([labels])}


def load(folder, dtype):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")


class Timed:
    def seconds(self):
        """Of one call: the mean of calls that last 0.1 s together, or of one."""
        start, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - start < 0.1:
            self.call()
            calls += 1
        return (time.perf_counter() - start) / calls


class LoraStep(Timed):
    """A call takes one step on each of the spec's batches."""

    def __init__(self, spec, options):
        base = load(spec["model"], options.dtype)
        base.config.use_cache = False
        self.model = PeftModel.from_pretrained(base, spec["adapter"], is_trainable=True)
        self.model.train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.first = [p.detach().clone() for p in self.trained]
        self.lr = spec["lr"]
        self.renew()
        rows, count = spec["rows"], spec.get("rowsPerStep") or len(spec["rows"])
        collate = packed if options.rows == "packed" else padded
        self.batches = [collate(rows[i : i + count]) for i in range(0, len(rows), count)]

    def renew(self):
        with torch.no_grad():
            for parameter, value in zip(self.trained, self.first):
                parameter.copy_(value)
        self.optimizer = torch.optim.AdamW(self.trained, lr=self.lr, weight_decay=0.0, fused=True)

    def step(self, batch):
        loss = self.model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def call(self):
        for batch in self.batches:
            self.step(batch)

    def result(self):
        self.renew()
        return [[self.step(self.batches[0]) for _ in range(2)]]


class Generation(Timed):
    def __init__(self, spec, options):
        self.model = load(spec["model"], options.dtype).eval()
        self.prompt, self.count = torch.tensor([spec["prompt"]]), spec["newTokens"]

    @torch.inference_mode()
    def call(self):
        new = {"max_new_tokens": self.count, "min_new_tokens": self.count}
        settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        mask = torch.ones_like(self.prompt)
        out = self.model.generate(self.prompt, attention_mask=mask, **new, **settings)
        return out[0, self.prompt.shape[1] :]

    def result(self):
        return [self.call().tolist()]


OPS = {"loraStep": LoraStep, "generation": Generation}


def version(options):
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    matrix = " AMX" if torch.cpu._is_amx_tile_supported() and not isa and options.dtype is torch.bfloat16 else ""
    return f"torch {torch.__version__}{matrix}, transformers {transformers_version}"


def read(folder):
    return read_work(folder, lambda values: values.tolist())


def serve(options):
    def prepare(folder):
        spec = read(folder)
        return OPS[spec["op"]](spec, options) if spec["op"] in OPS else None

    answer(prepare, {"version": version(options), "threads": torch.get_num_threads()})


def once(options):
    work = LoraStep(read(options.folder), options)
    losses, seconds = [], []
    for step in range(options.steps):
        start = time.perf_counter()
        losses.append(work.step(work.batches[step % len(work.batches)]))
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"losses": losses, "seconds": seconds, "peakBytes": peak_bytes()}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["serve", "once"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--rows", choices=["padded", "packed"], default="padded")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    options.dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    torch.set_num_threads(options.threads)
    serve(options) if options.mode == "serve" else once(options)


if __name__ == "__main__":
    main()
