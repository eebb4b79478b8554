"""Whole runs: configurations drawn over model, adapter, data and trainer, run by TRL and PEFT. `--runs N --seed S` draws others.

Each run is drawn from (seed, number) alone, so run 3 of a seed is the same run whatever --runs says. What may not be drawn together,
and why, is said where it is kept apart.

Some drawn runs are chaotic (a rate at which the loss jumps about): a rounding in the first step becomes a tenth in the tenth. Nothing
can be compared with them, Python with itself neither. So TRL runs each configuration three times more with every weight moved about its
last bit, and one whose loss moves by more than STABLE is drawn anew. What we compute has no part in that choice.
"""

import itertools
import random

from recording import Recording
from sft_run import losses, record_run, run

# A tenth of what our loss may differ; runs that are not chaotic move by 1e-6.
STABLE = 1e-5
NUDGES = (2**-24, 2**-23, 2**-22)

WORDS = """the parrot lorikeet sings repeats what it heard blue green red in a tree and then flies away 12 7 + = ? ! why so because morning
안녕 앵무새 노래 こんにちは はい مرحبا طائر 😀 🦜 naïve café don't x_1 {} [a] <b>""".split()


def text(draw: random.Random, least: int, most: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))


def draw_model(draw: random.Random) -> dict:
    heads = draw.choice((2, 4))
    width = draw.choice((4, 6, 8))
    model = {
        "hidden_size": heads * width, "num_attention_heads": heads, "num_key_value_heads": draw.choice((1, 2, heads)),
        "intermediate_size": draw.randint(17, 45), "num_hidden_layers": draw.choice((1, 2)), "tie_word_embeddings": draw.random() < 0.3,
        "sliding_window": draw.choice((None, None, draw.randint(3, 20))), "rms_norm_eps": draw.choice((1e-5, 1e-6)),
    }
    partial = draw.choice((1.0, 0.5)) if width != 6 else 1.0
    rope = {"rope_type": "default", "rope_theta": draw.choice((10000.0, 500.0)), "partial_rotary_factor": partial}
    if draw.random() < 0.3:
        pairs = int(width * partial) // 2
        factors = {name: [round(draw.uniform(1.0, most), 3) for _ in range(pairs)] for name, most in (("short_factor", 1.6), ("long_factor", 6.0))}
        rope |= {"rope_type": "longrope", **factors}
        # transformers turns to the long factors for a whole batch, we for each sequence: one side for all rows, never a border between.
        model["original_max_position_embeddings"] = draw.choice((2, 256))
    return model | {"rope_parameters": rope}


def draw_adapter(draw: random.Random, layers: int) -> dict:
    linears = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    targets = draw.choice(("all-linear", "all-linear", draw.sample(linears, k=draw.randint(1, 3)), r".*\.(qkv|gate_up)_proj"))
    adapter = {
        "r": draw.randint(1, 6), "lora_alpha": draw.choice((1, 4, 8, 16)), "lora_dropout": draw.choice((0.0, 0.0, 0.1, 0.3)),
        "use_rslora": draw.random() < 0.3, "target_modules": targets,
    }
    if draw.random() < 0.3:
        adapter |= {"rank_pattern": {"o_proj": 3, r"layers\.0\.mlp\.gate_up_proj": 2}, "alpha_pattern": {"qkv_proj": 5}}
    if isinstance(targets, list) and layers > 1 and draw.random() < 0.4:
        adapter["layers_to_transform"] = [draw.randrange(layers)]
    if targets == "all-linear" and draw.random() < 0.3:
        adapter["exclude_modules"] = ["down_proj"]
    return adapter


def draw_rows(draw: random.Random) -> tuple[list[dict], str | None]:
    """Rows of one format, and what is learned of them."""
    count = draw.randint(9, 24)

    def chat() -> list[dict]:
        system = [{"role": "system", "content": text(draw, 1, 4)}] if draw.random() < 0.3 else []
        turns = [{"role": role, "content": text(draw, 1, 7)} for _ in range(draw.choice((1, 1, 2))) for role in ("user", "assistant")]
        return system + turns

    form = draw.choice(("messages", "messages", "chat prompts", "prompts", "text"))
    if form == "messages":
        return [{"messages": chat()} for _ in range(count)], draw.choice((None, "assistant"))
    if form == "chat prompts":
        chats = [chat() for _ in range(count)]
        return [{"prompt": c[:-1], "completion": c[-1:]} for c in chats], draw.choice((None, "completion", "all"))
    if form == "prompts":
        return [{"prompt": text(draw, 1, 8), "completion": " " + text(draw, 1, 8)} for _ in range(count)], draw.choice((None, "completion", "all"))
    return [{"text": text(draw, 3, 20)} for _ in range(count)], None


def draw_packing(draw: random.Random, rows: list[dict], loss_on: str | None) -> dict:
    """Length, packing and shuffling."""
    data = {"max_length": draw.randint(24, 90)}
    if draw.random() < 0.5:
        strategy = draw.choice(("bfd", "bfd", "bfd_split", "wrapped"))
        data |= {"packing": True, "packing_strategy": strategy}
        if strategy == "bfd" and ("prompt" in rows[0] or loss_on == "assistant"):
            # A row whose answer is cut away trains nothing: TRL packs it, we leave it out. No row is cut here.
            data["max_length"] = 240
    elif draw.random() < 0.3:
        data["shuffle_dataset"] = True
    return data


def draw_schedule(draw: random.Random) -> dict:
    kind = draw.choice(("linear", "cosine", "cosine waves", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt", "cosine_with_min_lr",
                        "cosine_with_restarts", "warmup_stable_decay"))
    arguments = {
        "cosine waves": {"num_cycles": 1.5}, "cosine_with_restarts": {"num_cycles": 2}, "cosine_with_min_lr": {"min_lr_rate": 0.1},
        "warmup_stable_decay": {"num_decay_steps": 6, "min_lr_ratio": 0.05}, "polynomial": {"power": 2.0, "lr_end": 0.0}, "inverse_sqrt": {"timescale": 9},
    }.get(kind)
    name = "cosine" if kind == "cosine waves" else kind
    return {"lr_scheduler_type": name, "warmup_steps": draw.choice((0, 3, 0.2)), **({"lr_scheduler_kwargs": arguments} if arguments else {})}


def draw_training(draw: random.Random) -> dict:
    # No Lion: a sign that rounding turns moves an element by two whole steps, on either side.
    optimizer = draw.choice(("adamw_torch", "adamw_torch", "adamw_torch", "sgd", "adafactor"))
    rate = {"adamw_torch": (1e-3, 2e-2), "sgd": (1e-1, 1.0), "adafactor": (1e-3, 1e-2)}[optimizer]
    training = {
        "optim": optimizer, "learning_rate": float(f"{rate[0] * (rate[1] / rate[0]) ** draw.random():.3g}"),
        "per_device_train_batch_size": draw.randint(1, 4), "gradient_accumulation_steps": draw.choice((1, 1, 2, 3)),
        "weight_decay": draw.choice((0.0, 0.01, 0.1)), "max_grad_norm": draw.choice((0.0, 0.3, 1.0, 5.0)), **draw_schedule(draw),
    }
    if draw.random() < 0.7:
        training["max_steps"] = draw.randint(14, 28)
    else:
        training["num_train_epochs"] = draw.choice((4, 5, 3.5))
    if optimizer == "adamw_torch" and draw.random() < 0.5:
        training |= {"adam_beta1": draw.choice((0.8, 0.9)), "adam_beta2": draw.choice((0.95, 0.99)), "adam_epsilon": draw.choice((1e-8, 1e-6))}
    for key, value, part in (("label_smoothing_factor", 0.1, 0.25), ("neftune_noise_alpha", 5.0, 0.3), ("gradient_checkpointing", True, 0.3)):
        if draw.random() < part:
            training[key] = value
    return training


def draw_run(seed: int, number: int, attempt: int) -> dict:
    draw = random.Random(f"{seed} run {number} attempt {attempt}")
    model = draw_model(draw)
    rows, loss_on = draw_rows(draw)
    split = {"test_size": draw.choice((0.2, 3)), "seed": draw.getrandbits(32)} if draw.random() < 0.4 else None
    packing = draw_packing(draw, rows, loss_on)
    if packing.get("packing_strategy") in ("bfd_split", "wrapped") and "original_max_position_embeddings" in model:
        model["original_max_position_embeddings"] = 256  # pieces may be of one token: both sides of the border
    return {
        "seed": draw.getrandbits(31), "model": model, "peft": draw_adapter(draw, model["num_hidden_layers"]), "startB": draw.choice((0.0, 0.05, 0.2)),
        "rows": rows, "split": split, "lossOn": loss_on, "training": packing | draw_training(draw),
    }


def sensitivity(config: dict, expected: list[float]) -> float:
    """How far the loss of any step moves at most when the weights move about their last bit."""
    return max(abs(a - b) for nudge in NUDGES for a, b in zip(expected, losses(run(config, nudge)), strict=True))


def record(r: Recording) -> None:
    for number in range(r.runs):
        for attempt in itertools.count():
            config = draw_run(r.seed, number, attempt)
            trainer = run(config)
            moved = sensitivity(config, losses(trainer))
            if moved <= STABLE:
                break
            print(f"run {number}: drawn anew, a last bit moves its loss by {moved:.1e} ({config['training']['optim']})")
        record_run(r, f"run {number}", config, trainer)
