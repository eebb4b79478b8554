"""Records how TRL's SFTTrainer tokenizes, masks, truncates and packs rows: packages/trainer/src/data/recordings/trl.json.

Versions: trl 1.16.0, transformers 5.23.0, datasets 5.2.0. Uses the tokenizer of packages/tokenizer/src/recordings/llama-like.json; the rows are
written here. Usage, from the repository root: python conformance/reference/dataset_fixtures.py
"""

import json
import pathlib
import tempfile

from datasets import Dataset
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer, pack_dataset

root = pathlib.Path(__file__).resolve().parents[2]
recorded = json.loads((root / "packages/tokenizer/src/recordings/llama-like.json").read_text())
template = (pathlib.Path(__import__("trl").__file__).parent / "chat_templates/phi3.jinja").read_text()


def turn(role, content):
    return {"role": role, "content": content}


TEXTS = [{"text": t} for t in ["The parrot repeats.", "안녕하세요 😀 앵무새", "مرحبا بالعالم", "こんにちは、世界。<|endoftext|>", "x " * 40]]
PLAIN = [{"prompt": p, "completion": c} for p, c in [("The parrot", " repeats."), ("질문: 새?", " 답: 앵무새 🦜"), ("مرحبا", " بالعالم"), ("long " * 30, "end"), ("", "완성만")]]
CHATS = [
    {"messages": [turn("user", "안녕?"), turn("assistant", "네 😀"), turn("user", "مرحبا"), turn("assistant", "أهلا 👨‍👩‍👧")]},
    {"messages": [turn("system", "짧게"), turn("user", "こんにちは"), turn("assistant", "はい")]},
    {"messages": [turn("user", "word " * 30), turn("assistant", "cut away")]},
]
CHAT_PROMPTS = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in CHATS]


def tokenized(rows, **options):
    """What SFTTrainer would train on: ids and labels of each row that it keeps."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(recorded["tokenizerJson"])), eos_token="<|endoftext|>", pad_token="<unk>", chat_template=template
    )
    model = LlamaForCausalLM(LlamaConfig(vocab_size=576, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    with tempfile.TemporaryDirectory() as out:
        args = SFTConfig(output_dir=out, max_length=48, bf16=False, use_cpu=True, report_to=[], per_device_train_batch_size=1, **options)
        trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        columns = trainer.train_dataset.column_names
        print(options, columns)
        batches = [trainer.data_collator([{k: v for k, v in row.items()}]) for row in trainer.train_dataset]
        return [{"ids": b["input_ids"][0].tolist(), "labels": b["labels"][0].tolist()} for b in batches]


def packed(lengths, size):
    rows = Dataset.from_dict({"input_ids": [list(range(n)) for n in lengths]})
    return [list(bin) for bin in pack_dataset(rows, seq_length=size, strategy="bfd")["seq_lengths"]]


def main():
    lengths = [[(37 * i * i + 11 * i + 5 * k) % 61 + 1 for i in range(40)] for k in range(6)]
    cases = [
        ("text", TEXTS, "all", {}),
        ("prompt-completion", PLAIN, None, {}),
        ("prompt-completion", PLAIN, "all", {"completion_only_loss": False}),
        ("messages", CHATS, None, {}),
        ("messages", CHATS, "assistant", {"assistant_only_loss": True}),
        ("prompt-completion", CHAT_PROMPTS, None, {}),
    ]
    record = {
        "maxLength": 48,
        "chatTemplate": template,
        "cases": [{"format": f, "rows": rows, "lossOn": loss, "examples": tokenized(rows, **options)} for f, rows, loss, options in cases],
        "packing": [{"lengths": n, "maxLength": 64, "bins": packed(n, 64)} for n in lengths],
    }
    out = root / "packages/trainer/src/data/recordings"
    out.mkdir(exist_ok=True)
    (out / "trl.json").write_text(json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
