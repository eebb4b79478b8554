"""Orders, splits and packs of datasets and TRL, stems and scores of NLTK and rouge_score: what must be equal, not close."""

import random

import huggingface_hub.hf_api  # noqa: F401  (datasets and huggingface_hub import each other; this order works)
import numpy
import torch
from datasets import Dataset, disable_progress_bars
from nltk.stem import porter
from rouge_score import rouge_scorer, scoring
from trl import pack_dataset

from recording import Recording

SUFFIXES = """ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness fulness ousness aliti iviti biliti
fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize e ll ed
ing s ies ied y eed sses ly""".split()
# Words that the irregular forms and the short-word rules of NLTK's mode touch, and ordinary ones.
WORDS = """sky skies dying lying tying news innings inning outings cannings howe proceed exceed succeed flies dies mules denied died
agreed owned humbled sized meeting stating itemization sensational traditional reference colonizer plotted hoping hopping at ion yes by
say enjoy spies controlled rolling probate rate cease generalizations oscillators archaeology geology 2024 x1 a1b2 ab abc""".split()
TEXT_WORDS = """the Cat cats running run quickly hopeful 2024 naïve 한국 dog's a over jumps jump relational 앵무새 مرحبا x-ray I'm
RELATIONAL repeats repeated 😀 parrot parrots""".split()
TYPES = ["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"]


def case(r: Recording, name: str, op: str, attributes: dict, **outputs: torch.Tensor) -> None:
    stored = {k: r.store(f"{name}/{k}", v) for k, v in outputs.items()}
    r.cases.append({"name": name, "op": op, "attributes": attributes, "inputs": {}, "outputs": stored})


def draw_seed(draw: random.Random) -> int:
    """Of 10, 32 and 53 bits: NumPy spreads one word or two."""
    return draw.getrandbits(draw.choice((10, 32, 53)))


def record_orders(r: Recording, draw: random.Random) -> None:
    for size in (1, 2, 3, draw.randint(4, 60), 256, 257, draw.randint(1000, 3000)):
        seed = draw_seed(draw)
        rows = Dataset.from_dict({"row": list(range(size))})
        case(r, f"shuffle {size}", "shuffle", {"rows": size, "seed": seed}, order=torch.tensor(rows.shuffle(seed=seed)["row"][:]))
    for size, test_size in ((2, 0.5), (2, 1), (10, 0.25), (101, 0.1), (1000, 0.05), (draw.randint(20, 900), draw.uniform(0.01, 0.6)), (60, draw.randint(1, 50))):
        seed = draw_seed(draw)
        split = Dataset.from_dict({"row": list(range(size))}).train_test_split(test_size, seed=seed)
        parts = {k: torch.tensor(split[k]["row"][:]) for k in ("train", "test")}
        case(r, f"split {size} at {test_size}", "split", {"rows": size, "testSize": test_size, "seed": seed}, **parts)


def record_packs(r: Recording, draw: random.Random) -> None:
    """Rows hold the numbers 0, 1, 2, ... in order, so that the packed numbers tell which row went where and what was cut."""
    for strategy in ("bfd", "bfd_split", "wrapped"):
        # Over a thousand rows, TRL packs group by group.
        for rows, longest, size in ((1, 9, 9), (draw.randint(2, 40), 30, draw.randint(8, 20)), (draw.randint(1001, 1300), 12, 16)):
            lengths = [draw.randint(1, longest) for _ in range(rows)]
            starts = numpy.cumsum([0, *lengths])
            table = Dataset.from_dict({"input_ids": [list(range(a, b)) for a, b in zip(starts, starts[1:])]})
            packs = pack_dataset(table, seq_length=size, strategy=strategy)
            ids = packs["input_ids"][:]
            sequences = packs["seq_lengths"][:] if "seq_lengths" in packs.column_names else [[len(pack)] for pack in ids]
            case(
                r, f"pack {strategy} {rows} rows", "pack", {"lengths": lengths, "maxLength": size, "packingStrategy": strategy},
                ids=torch.tensor([i for pack in ids for i in pack]), sequences=torch.tensor([n for pack in sequences for n in pack]),
                sequencesOfPacks=torch.tensor([len(pack) for pack in sequences]),
            )


def record_scores(r: Recording, draw: random.Random) -> None:
    stemmer = porter.PorterStemmer()
    made = ["".join(draw.choices("aeiouybcdlstzwxr", k=draw.randint(0, 5))) + draw.choice(SUFFIXES) + draw.choice(["", *SUFFIXES]) for _ in range(1500)]
    words = WORDS + made
    case(r, "stems", "stem", {"words": words, "stems": [stemmer.stem(word) for word in words]})

    def text() -> str:
        return "\n".join(" ".join(draw.choices(TEXT_WORDS, k=draw.randint(0, 9))) for _ in range(draw.randint(0, 4)))

    pairs = [(text(), text()) for _ in range(60)]
    for use_stemmer in (False, True):
        scorer = rouge_scorer.RougeScorer(TYPES, use_stemmer=use_stemmer)
        scores = [{k: dict(v._asdict()) for k, v in scorer.score(*pair).items()} for pair in pairs]
        case(r, f"rouge {'of stems' if use_stemmer else 'of words'}", "rouge", {"types": TYPES, "useStemmer": use_stemmer, "pairs": pairs, "scores": scores})
    for count in (1, 2, draw.randint(3, 200)):
        seed = draw.getrandbits(32)
        scores = [scoring.Score(*(draw.random() for _ in range(3))) for _ in range(count)]
        aggregator = scoring.BootstrapAggregator()
        for score in scores:
            aggregator.add_scores({"rougeL": score})
        numpy.random.seed(seed)
        interval = {k: dict(v._asdict()) for k, v in aggregator.aggregate()["rougeL"]._asdict().items()}
        case(r, f"rouge interval of {count}", "aggregate", {"scores": [dict(s._asdict()) for s in scores], "seed": seed, "interval": interval})


def record(r: Recording) -> None:
    disable_progress_bars()
    draw = random.Random(r.seed)
    record_orders(r, draw)
    record_packs(r, draw)
    record_scores(r, draw)
