"""Writes recipes/samples, with which the domain recipes run offline: python scripts/make_samples.py.

Each sample has the columns of its data set on the hub, and rows of the same shape that are put
together here from a few words by a fixed seed. Nothing in them is taken from the data sets, and
nothing in them is true: they show that a recipe runs, and teach a model nothing.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qpeft.files import written_whole

TARGET = Path(__file__).parent.parent / "recipes" / "samples"
SIZES = {"train": 40, "validation": 10, "test": 10}
Row = dict[str, Any]


def main() -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl of every sample."""
    for name, rows in samples().items():
        for part, n in SIZES.items():
            lines, rows = rows[:n], rows[n:]
            path = TARGET / name / f"{part}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
            with written_whole(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8")


def samples() -> dict[str, list[Row]]:
    """Return the rows of each sample, no two alike, under the name of its folder."""
    found = {}
    for name, make in MAKERS.items():
        rng = random.Random(name)
        rows: dict[str, Row] = {}
        while len(rows) < sum(SIZES.values()):
            row = make(rng, len(rows))
            rows.setdefault(json.dumps(row), row)
        found[name] = rng.sample(list(rows.values()), len(rows))
    return found


def gsm8k_row(rng: random.Random, _: int) -> Row:
    """Return a sum in words, with a solution that notes each calculation and ends in the answer."""
    who, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b, c = rng.randint(3, 60), rng.randint(2, 9), rng.randint(2, 9)
    found, bought = b * c, a + b * c
    return {
        "question": f"{who} has {a} {thing} and buys {b} boxes with {c} {thing} in each. "
        f"How many {thing} does {who} have now?",
        "answer": f"The boxes hold {b}*{c} = <<{b}*{c}={found}>>{found} {thing}.\n"
        f"So {who} has {a}+{found} = <<{a}+{found}={bought}>>{bought} {thing}.\n#### {bought}",
    }


def r1_distill_row(rng: random.Random, i: int) -> Row:
    """Return a sum with a train of thought in front of the answer."""
    a, b = rng.randint(11, 99), rng.randint(11, 99)
    answer = f"The sum is $\\boxed{{{a + b}}}$."
    thought = f"I need {a} + {b}. {a} + {b // 10 * 10} is {a + b // 10 * 10}, and {b % 10} more."
    return {
        "problem": f"What is ${a} + {b}$?",
        "id": f"made_up_{i}",
        "reannotated_assistant_content": f"<think>\n{thought}\n</think>\n\n{answer}",
        "source": "made_up",
        "solution": answer,
        "verified": None,
        "quality_metrics": None,
    }


def medical_o1_row(rng: random.Random, _: int) -> Row:
    """Return a question about an illness that does not exist, a train of thought and an answer."""
    illness, sign, other = rng.choice(ILLNESSES), *rng.sample(SIGNS, 2)
    age = rng.randint(20, 80)
    return {
        "Question": f"In an invented land, a {age}-year-old has {sign} and {other}. There, {sign} "
        f"always means {illness}. What is it called?",
        "Complex_CoT": f"The two signs are {sign} and {other}. By the rule of this land, {sign} "
        f"means {illness}. The other sign changes nothing.",
        "Response": f"It is called {illness}, because of the {sign}.",
    }


def pubmedqa_row(rng: random.Random, i: int) -> Row:
    """Return a question about made-up counts, with a decision that follows from them."""
    remedy, illness = rng.choice(REMEDIES), rng.choice(ILLNESSES)
    n_with, n_without = rng.randint(0, 20), rng.randint(0, 20)
    gap = n_with - n_without
    decision = "maybe" if abs(gap) < 3 else "yes" if gap > 0 else "no"
    return {
        "question": f"Does {remedy} help against {illness} in invented trial {i + 1}?",
        "pubid": i + 1,
        "context": {
            "contexts": [
                f"In an invented trial, 20 people took {remedy} and 20 did not.",
                f"{n_with} people with {remedy} and {n_without} without it got well.",
            ],
            "labels": ["METHODS", "RESULTS"],
            "meshes": ["Invented Terms"],
            "reasoning_required_pred": [decision],
            "reasoning_free_pred": [decision],
        },
        "long_answer": f"The invented numbers say {decision}.",
        "final_decision": decision,
    }


def phrasebank_row(rng: random.Random, _: int) -> Row:
    """Return a sentence about a company that does not exist, and the mood of its verb."""
    label = rng.randrange(3)
    company, quarter, figure = rng.choice(COMPANIES), rng.randint(1, 4), rng.choice(FIGURES)
    millions = rng.randint(2, 90)
    return {
        "sentence": f"{figure} of {company} {VERBS[label]} EUR {millions} mn in quarter {quarter} .",
        "label": label,
        "sentiment": ("negative", "neutral", "positive")[label],
    }


def cpsycoun_row(rng: random.Random, i: int) -> Row:
    """Return the last turn of a made-up conversation in Chinese, with the turns before it."""
    # Counted through rather than drawn, so that no two conversations open alike.
    topic, feeling, place = TOPICS[i % 8], FEELINGS[i // 8 % 5], PLACES[i // 40 % 2]
    n_weeks = rng.randint(2, 9)
    return {
        "instruction": f"在{place}的时候我还是{feeling}。",
        "output": f"你在{place}{feeling}。我们下次再谈{topic}。",
        "history": [
            [f"我想谈谈{topic}。在{place}我{feeling}。", f"好的。请说说{topic}。"],
            [f"已经{n_weeks}个星期了。", f"{n_weeks}个星期不短。谢谢你告诉我。"],
        ],
    }


NAMES = ("Ada", "Bo", "Chen", "Dina", "Emil", "Fatou", "Gus", "Hana")
THINGS = ("pens", "shells", "stamps", "nuts", "tiles", "coins")
ILLNESSES = ("blue hiccup", "moon itch", "paper cough", "glass sleep", "salt sneeze", "echo ache")
SIGNS = ("green ears", "humming knees", "square shadows", "cold laughter", "slow blinking")
REMEDIES = ("violet tea", "warm sand", "brass music", "cloud salt", "rope walking")
COMPANIES = ("Nulla Oy", "Quercia Made-up Corp", "Lorem Steel", "Ipsum Paper", "Dolor Shipping")
FIGURES = ("Operating profit", "Net sales", "The order book")
VERBS = ("fell to", "was unchanged at", "rose to")
TOPICS = ("工作", "考试", "睡眠", "朋友", "家人", "搬家", "时间", "选择")
FEELINGS = ("很紧张", "很累", "很难过", "很着急", "很孤单")
PLACES = ("家里", "外面")

MAKERS: dict[str, Callable[[random.Random, int], Row]] = {
    "gsm8k": gsm8k_row,
    "r1-distill": r1_distill_row,
    "medicine": medical_o1_row,
    "pubmedqa": pubmedqa_row,
    "finance": phrasebank_row,
    "counselling": cpsycoun_row,
}


if __name__ == "__main__":
    main()
