"""Texts drawn from the seed: many scripts, emoji sequences, control characters, long runs, look-alikes of special tokens."""

import random
import unicodedata

WORDS = [
    "The parrot repeats what it hears.", "Lorikeets are small, colourful birds", "fine-tune a model on your own machine", "anteeksi, en ymmärrä",
    "안녕하세요, 만나서 반갑습니다.", "앵무새는 말을 따라 합니다", "값이 얼마예요? 닭볶음탕 이천 원", "こんにちは、世界。", "オウムはよくしゃべる鳥です", "東京都の天気は晴れです",
    "مرحبا بالعالم", "الببغاء يكرر الكلمات", "كتابٌ جديدٌ", "😀 hello 👍🏽", "👨‍👩‍👧‍👦 family", "🇰🇷🇯🇵 flags", "naïve café déjà-vu", "cafe\u0301 decomposed", "각 각",
    "def f(x):\n    return x ** 2\n", "\tindented\r\nline", "{\"a\": [1, 2.5, null]}", "3.14159 and 1e-5", "x = y // 2;  # two  spaces   three", "https://example.org/a?b=c&d=%20",
    "ÅÄÖ åäö ß ẞ", "Ελληνικά και Русский", "हिन्दी में लिखो", "ภาษาไทย", "𝒳 𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "zero\u200bwidth\ufeffmark", "a\u00a0b\u3000c\u2003d\u0085e",
    "tab\tnewline\n\nblank", "ALL CAPS and MixedCase", "don't can't I'll we've", "…—–“quotes”‘single’", "<0x0A> is not a byte", "▁ is not a space", "\x00\x01\x7f", "",
]
LOOKALIKES = [
    "<|end|>", "<|user|>", "<|system|>", "<|assistant|>", "<|endoftext|>", "<|placeholder1|>", "</s>", "<s>", "<unk>", "<|end", "|end|>", "<|END|>", "<| end |>",
    "<|endofprompt|>", "<|tool|>", "<|/tool|>", "[LEFT]", "lorikeet", "앵무새", "bird song", "<0xEA>", "▁", "<|user|><|end|>", "<|<|end|>|>",
]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u0085", "\u2003", "\u3000", "\u2028", "\ufeff", "\u200b", ""]
BLOCKS = [
    (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
    (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2190, 0x23FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF),
    (0xFB00, 0xFDFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x10000, 0x100FF), (0x1D400, 0x1D7FF), (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0020, 0xE007F), (0x10FF00, 0x10FFFF),
]
PEOPLE = ["👨", "👩", "🧑", "👧", "👦", "👶"]
SIGNS = ["😀", "❤", "✈", "👍", "🏳", "🦜", "🐦", "⚕", "🔥", "☠", "1", "#", "*"]
TONES = ["", "🏻", "🏽", "🏿"]
VARIATIONS = ["", "", "\ufe0f", "\ufe0e", "\u20e3"]


def words(draw: random.Random) -> str:
    parts = draw.sample(WORDS, draw.randint(1, 3))
    return draw.choice(SPACES).join(parts) + draw.choice(["", "", *SPACES])


def scattered(draw: random.Random) -> str:
    """Any characters of one to three blocks, unassigned and private ones too."""
    blocks = draw.sample(BLOCKS, draw.randint(1, 3))
    return "".join(chr(draw.randint(*draw.choice(blocks))) for _ in range(draw.randint(1, 14)))


def emoji(draw: random.Random) -> str:
    """Families, flags, keycaps, skin tones, tag sequences; sometimes cut so that half a sequence is left."""

    def one() -> str:
        kind = draw.randrange(4)
        if kind == 0:
            return "\u200d".join(draw.choice(PEOPLE) + draw.choice(TONES) for _ in range(draw.randint(1, 4)))
        if kind == 1:
            return "".join(chr(0x1F1E6 + draw.randrange(26)) for _ in range(draw.randint(1, 5)))
        if kind == 2:
            return draw.choice(SIGNS) + draw.choice(TONES) + draw.choice(VARIATIONS)
        return "🏴" + "".join(chr(0xE0000 + ord(c)) for c in draw.choice(["gbeng", "gbsct", "usca"])) + draw.choice(["\U000e007f", ""])

    text = draw.choice(["", " ", "\u200d"]).join(one() for _ in range(draw.randint(1, 5)))
    return text[draw.randint(0, 1) : len(text) - draw.randint(0, 1)] + draw.choice(["", " hi", "\u200d", "\ufe0f"])


def control(draw: random.Random) -> str:
    pool = [chr(c) for c in (*range(0x00, 0x20), *range(0x7F, 0xA0), 0xAD, *range(0x200B, 0x2010), *range(0x2028, 0x202F), 0x2060, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF)]
    return "".join(draw.choice(pool) if draw.random() < 0.6 else draw.choice("aé가😀 \n") for _ in range(draw.randint(1, 16)))


def run(draw: random.Random) -> str:
    """One short unit many times over."""
    unit = draw.choice(["a", " ", "\n", "=", "-", "가", "😀", "▁", "0", "ab", "\t", " a", "é", "\u0301", "<", "\u200d", "ha", "\x00", ". "])
    return draw.choice(["", "x", " "]) + unit * int(2 ** draw.uniform(2, 8)) + draw.choice(["", "x", "\n"])


def lookalike(draw: random.Random) -> str:
    parts = [draw.choice(LOOKALIKES) if draw.random() < 0.6 else draw.choice(["a", "é", "가", "x_", "1", ".", "word", "\u0301"]) for _ in range(draw.randint(1, 5))]
    return draw.choice(SPACES) + "".join(part + draw.choice(SPACES) for part in parts)


def code(draw: random.Random) -> str:
    indent = draw.choice(["  ", "    ", "\t"])
    lines = [f"for i in range({draw.randrange(10**draw.randint(1, 7))}):", f"{indent}x[i] += {draw.uniform(-9, 9)!r}", f"// {draw.choice(WORDS)}", "{\"k\": [null, true]}", f"{indent * 2}return {hex(draw.getrandbits(32))};"]
    return draw.choice(["\n", "\r\n"]).join(draw.sample(lines, draw.randint(1, 3)))


def normalized(draw: random.Random) -> str:
    """The same letters composed, decomposed, or under a stack of accents."""
    text = unicodedata.normalize(draw.choice(["NFC", "NFD", "NFKC", "NFKD"]), draw.choice(WORDS))
    return "".join(c + "".join(chr(draw.randint(0x300, 0x36F)) for _ in range(draw.randint(0, 3) if draw.random() < 0.1 else 0)) for c in text)


def spaced(draw: random.Random) -> str:
    return "".join(draw.choice(SPACES) + draw.choice(["", "a", "B", "가", ",", "12"]) for _ in range(draw.randint(1, 10)))


KINDS = (words, scattered, emoji, control, run, lookalike, code, normalized, spaced)


def drawn_texts(draw: random.Random, count: int) -> list[str]:
    """Every kind in turn. UTF-8 holds them all: no half surrogate pairs."""
    return [KINDS[i % len(KINDS)](draw) for i in range(count)]
