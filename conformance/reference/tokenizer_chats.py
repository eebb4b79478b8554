"""Chat templates of Phi-3's three generations and of Phi-4-mini, and chats drawn from the seed.

The model's own template gives text and ids. The mask comes from the same template with `{% generation %}` tags: TRL's where
TRL has one, else written here; both print the same text, which is checked.
"""

import random
from pathlib import Path

import trl
from transformers import PreTrainedTokenizerFast

from tokenizer_texts import WORDS, code, emoji, normalized, run, scattered, spaced, words

TEMPLATES = Path(trl.__file__).parent / "chat_templates"

# April 2024: begins with bos, knows no system turn, and a user turn opens the answer.
FIRST = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
    "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}"
)
FIRST_TRAINING = FIRST.replace("{{message['content'] + '<|end|>' + '\n'}}", "{% generation %}{{ message['content'] + '<|end|>\n' }}{% endgeneration %}")
PHI4 = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content']"
    " + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4_TRAINING = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}{% endif %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% elif messages[-1]['role'] == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% else %}{{ eos_token }}{% endif %}"
)
# A template of no chat tokens: only here can a token lie across the border of an answer.
BARE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
BARE_TRAINING = (
    "{% for message in messages %}{{ message['role'] + ': ' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def trl_template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


GENERATIONS = {
    "first": (FIRST, FIRST_TRAINING),
    "phi3": (trl_template("phi3"), trl_template("phi3_training")),
    "phi3.5": (trl_template("phi3_5"), trl_template("phi3_5_training")),
    "phi4-mini": (PHI4, PHI4_TRAINING),
    "bare": (BARE, BARE_TRAINING),
}

# Kinds of text without look-alikes of special tokens: what a user spells never becomes one here, in Python it does.
KINDS = (words, scattered, emoji, normalized, spaced, code, run)


def drawn_chats(draw: random.Random, count: int, forbidden: list[str], generation: str) -> list[list[dict]]:
    """Up to four exchanges with or without a system turn, sometimes without the last answer, sometimes with empty texts.

    transformers ends a mask at the first token of an answer's last character, which leaves out the other bytes of one that
    takes several: where no end of turn follows, answers end in a character of one token.
    """
    tools, endings = generation == "phi4-mini", [".", "a", " ", "\n", "\n\n"] if generation == "bare" else [""]

    def text() -> str:
        while True:
            made = draw.choice(KINDS)(draw) if draw.random() < 0.8 else draw.choice(["", " ", "\n", *WORDS])
            if not any(token in made for token in forbidden):
                return made

    chats = []
    for _ in range(count):
        chat = [{"role": "system", "content": text()}] if draw.random() < 0.4 else []
        if chat and tools and draw.random() < 0.5:
            chat[0]["tools"] = '[{"name": "fly", "parameters": {}}]'
        for _ in range(draw.randint(1, 4)):
            chat += [{"role": "user", "content": text()}, {"role": "assistant", "content": text() + draw.choice(endings)}]
        chats.append(chat[:-1] if draw.random() < 0.2 else chat)
    return chats


def rendered(tokenizer: PreTrainedTokenizerFast, chat: list[dict], template: str, training: str) -> dict:
    """Text, ids, ids with the generation prompt, and the assistant mask of one chat."""
    own = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=True, return_dict=True)
    trained = tokenizer.apply_chat_template(chat, chat_template=training, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    prompt = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=True, return_dict=True, add_generation_prompt=True)
    if trained["input_ids"] != own["input_ids"]:
        raise RuntimeError(f"the training template prints another text than the model's own: {chat}")
    header = tokenizer.convert_tokens_to_ids("<|assistant|>")
    # Where an answer begins with white space that `<|assistant|>` swallows, its span begins inside that token, and
    # transformers marks the token too. A header is given, never produced: it is not trained here.
    mask = [0 if token == header else bit for token, bit in zip(trained["input_ids"], trained["assistant_masks"])]
    return {"text": tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False), "ids": own["input_ids"],
            "mask": mask, "promptIds": prompt["input_ids"]}
