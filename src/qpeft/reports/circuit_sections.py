"""Sections on the circuit: its picture, what its ansatz can do untrained, and what noise does to it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from qpeft.circuits import build_ansatz
from qpeft.circuits.drawing import draw_svg
from qpeft.reports.arm_styles import ArmStyle, nth_style
from qpeft.reports.content import Column, Figure, Panel, Section, Table, arm_table
from qpeft.reports.material import Material, listed
from qpeft.reports.plots import Line, Words, plot_lines
from qpeft.reports.samples import first_examples, ranges, told
from qpeft.study import numbers
from qpeft.study.results import AnsatzRow

_CIRCUIT_CORES = ("quantum", "product", "frozen")


def ansatz_section(material: Material) -> Section:
    """Show expressibility, entangling capability and gradient variance of the ansaetze."""
    key, title = "ansatz", "Expressibility, entangling capability, barren plateaus"
    rows = material.results.ansatzes
    if not rows:
        return Section(key, title, absent="No ansatz was measured in this study.")
    panels, lines = [], []
    for place, (field, label, scale) in enumerate(_ANSATZ_FIELDS):
        lines = _ansatz_lines(rows, field)
        description = f"{label} against the number of qubits, by ansatz and layers. The table has the numbers."
        words = Words(
            f"{key}-{place}", label.split(",")[0], description, "Qubits of a circuit", label
        )
        ticks = sorted({row.n_qubits for row in rows})
        panels.append(
            Panel(words.title, plot_lines(lines, words, scales=("linear", scale), x_ticks=ticks))
        )
    table = Table(
        "Ansaetze without any training",
        (
            Column("Ansatz"),
            *(Column(h, "number") for h in ("Qubits", "Layers L", *(f[1] for f in _ANSATZ_FIELDS))),
        ),
        tuple(
            (
                row.name,
                str(row.n_qubits),
                str(row.n_layers),
                *(numbers.short(getattr(row, field)) for field, _, _ in _ANSATZ_FIELDS),
            )
            for row in rows
        ),
    )
    paragraphs = (
        "Expressibility is the divergence of the circuit's states from random ones: smaller is more expressive. "
        "Entangling capability is the mean Meyer-Wallach measure: 0 for product states, at most 1 (both: arXiv "
        "1905.10876).",
        _plateau_text(rows),
    )
    others = " and of the same ansatz with other numbers of qubits" if ansatz_curves(rows) else ""
    caption = f"Properties of the circuits in the arms{others}, averaged over random angles."
    legend = tuple((line.label, line.style) for line in lines)
    return Section(key, title, paragraphs, (Figure(caption, "", tuple(panels), table, legend),))


def ansatz_curves(rows: Sequence[AnsatzRow]) -> dict[str, list[AnsatzRow]]:
    """Return the rows of each ansatz that was measured with several numbers of qubits, by its label."""
    return {label: members for label, members in _by_ansatz(rows).items() if len(members) > 1}


def noise_section(material: Material) -> Section:
    """Show accuracy against error scale and shots, and the arms that were trained with noise."""
    key, title = "noise", "Noise and shots"
    panels, arms = [], set()
    for place, task in enumerate(material.results.tasks):
        for name, label, is_scale in (
            ("scale", "Factor on the chip's error rates", True),
            ("shots", "Shots a circuit", False),
        ):
            lines = []
            for arm in material.arms:
                found = _noise_values(material, arm, task.name, is_scale=is_scale)
                if found:
                    lines.append(_noise_line(arm, material.styles[arm], found))
                    arms.add(arm)
            if lines:
                heading = f"{task.title}: {'errors' if is_scale else 'shots'}"
                description = f"{task.title}: accuracy against {label.lower()}, by arm. The table has the numbers."
                words = Words(f"{key}-{name}-{place}", heading, description, label, "Accuracy, %")
                ticks = sorted({x for line in lines for x in line.x})
                drawn = plot_lines(
                    lines, words, scales=("linear" if is_scale else "log", "linear"), x_ticks=ticks
                )
                panels.append(Panel(words.title, drawn))
    trained = _trained_with_noise(material)
    if not panels and trained is None:
        return Section(
            key,
            title,
            absent="Noise was not measured in this study: all circuits ran on the exact simulator.",
        )
    table = noise_table(material)
    shown = material.legend(arm for arm in material.arms if arm in arms)
    caption = _noise_caption(material) if panels else ""
    figures = (Figure(caption, "", tuple(panels), table, shown),) if panels else ()
    return Section(key, title, figures=figures, tables=(trained,) if trained else ())


def noise_table(material: Material) -> Table | None:
    """Return the accuracy of trained adapters by error scale and shots."""
    rows = [
        (arm, task.title, numbers.short(scale), shots, numbers.spread(values, 1))
        for task in material.results.tasks
        for is_scale in (True, False)
        for arm in material.arms
        for (scale, shots), values in _noise_cells(
            material, arm, task.name, is_scale=is_scale
        ).items()
    ]
    if not rows:
        return None
    headers = (
        Column("Arm", "arm"),
        Column("Task"),
        Column("Error scale", "number"),
        Column("Shots", "number"),
        Column("Accuracy, % (range over seeds)", "number"),
    )
    caption = "Accuracy of trained adapters on a noisy chip"
    return Table(caption, headers, tuple(dict.fromkeys(rows)))


def circuit_section(material: Material) -> Section:
    """Show the picture of the subject's circuit."""
    from qpeft.adapters.config import QthaConfig

    key, title = "circuit", "The circuit"
    arm = material.results.arm(material.results.subject)
    options = {name: arm.options[name] for name in _CIRCUIT_OPTIONS if name in arm.options}
    config = QthaConfig(**options) if arm.method == "qtha" else None
    if config is None or config.core not in _CIRCUIT_CORES:
        return Section(key, title, absent=f"{arm.name} has no circuit.")
    n_qubits = config.r // config.groups
    is_entangled = config.core != "product"
    circuit = build_ansatz(config.ansatz, n_qubits, config.n_layers, is_entangled=is_entangled)
    blocks = f"{config.groups} such blocks" if config.groups > 1 else "One such block"
    description = (
        f"The circuit of {arm.name}: ansatz {circuit.name}, {n_qubits} qubits, {config.n_layers} layers, "
        f"{len(circuit.gates)} gates, {circuit.n_weights} trained angles."
    )
    caption = (
        f"{blocks} in every adapted layer: ansatz {circuit.name}, {n_qubits} qubits, L = {config.n_layers}, "
        f"{circuit.n_weights} trained angles (θ), {circuit.n_inputs} inputs (z). Each qubit is read out as ⟨Z⟩."
    )
    panel = Panel("", draw_svg(circuit), is_file=True)
    return Section(key, title, figures=(Figure(caption, description, (panel,), None),))


_CIRCUIT_OPTIONS = ("r", "groups", "n_layers", "ansatz", "core")
_ANSATZ_FIELDS: tuple[tuple[str, str, Literal["linear", "log"]], ...] = (
    ("expressibility", "Expressibility, nats", "linear"),
    ("entangling_capability", "Entangling capability, 0 to 1", "linear"),
    ("gradient_variance", "Gradient variance, 1/rad²", "log"),
)
_NoiseKey = tuple[float, str]


def _by_ansatz(rows: Sequence[AnsatzRow]) -> dict[str, list[AnsatzRow]]:
    groups: dict[str, list[AnsatzRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.n_qubits):
        groups[f"{row.name}, L = {row.n_layers}"].append(row)
    return groups


def _ansatz_lines(rows: Sequence[AnsatzRow], field: str) -> list[Line]:
    return [
        Line(
            label,
            nth_style(index),
            tuple(float(row.n_qubits) for row in members),
            tuple(float(getattr(row, field)) for row in members),
        )
        for index, (label, members) in enumerate(_by_ansatz(rows).items())
    ]


def _plateau_text(rows: Sequence[AnsatzRow]) -> str:
    """Return what the rows say of a barren plateau, or that they say nothing of it."""
    curves = ansatz_curves(rows)
    if not curves:
        return (
            "On a barren plateau the gradient's variance falls exponentially with the qubits (arXiv 1803.11173). "
            "Whether it does here is not known: each circuit was measured with one number of qubits only."
        )
    ends = (
        f"from {numbers.short(first.gradient_variance)} with {first.n_qubits} qubits to "
        f"{numbers.short(last.gradient_variance)} with {last.n_qubits} ({label})"
        for label, (first, *_, last) in curves.items()
    )
    return (
        "On a barren plateau the gradient's variance falls exponentially with the qubits (arXiv 1803.11173): a "
        f"straight line downwards in the third picture. Here it goes {listed(ends)}."
    )


def _noise_caption(material: Material) -> str:
    over = ranges(material, "noise", "rows", marks=("Lines", "bands"), is_by_task=True)
    samples = told("Accuracies are those on", first_examples(material, "noise"))
    what = (
        "Trained adapters whose circuits then run on a simulated chip: an error scale of 1 is the chip as "
        "calibrated, 0 has no errors."
    )
    return " ".join((what, over, *samples))


def _noise_cells(
    material: Material, arm: str, task: str, *, is_scale: bool
) -> dict[_NoiseKey, list[float]]:
    """Return accuracies in percent by (error scale, shots) of an arm's runs."""
    cells: dict[_NoiseKey, list[float]] = defaultdict(list)
    for rows in material.measured(arm, "noise", "rows", task=task):
        for row in rows:
            if (row["shots"] is None) == is_scale and row.get("accuracy") is not None:
                shots = "exact" if row["shots"] is None else numbers.whole(row["shots"])
                cells[float(row["error_scale"]), shots].append(100 * float(row["accuracy"]))
    return dict(sorted(cells.items()))


def _noise_values(
    material: Material, arm: str, task: str, *, is_scale: bool
) -> dict[float, list[float]]:
    cells = _noise_cells(material, arm, task, is_scale=is_scale)
    if is_scale:
        return {scale: values for (scale, _), values in cells.items()}
    return {float(shots.replace(",", "")): values for (_, shots), values in cells.items()}


def _noise_line(arm: str, style: ArmStyle, found: Mapping[float, list[float]]) -> Line:
    x = tuple(sorted(found))
    return Line(
        arm,
        style,
        x,
        tuple(fmean(found[place]) for place in x),
        tuple(min(found[place]) for place in x),
        tuple(max(found[place]) for place in x),
    )


def _trained_with_noise(material: Material) -> Table | None:
    """Return the arms whose circuits did not run exactly while they were trained."""
    rows = []
    for arm in material.arms:
        options: Mapping[str, Any] = material.results.arm(arm).options
        backend, shots = options.get("backend", "exact"), options.get("shots")
        if backend == "exact" and shots is None:
            continue
        scale = (options.get("backend_options") or {}).get("scale", numbers.ABSENT)
        values = [material.value(task, arm, "accuracy") for task in material.tasks]
        shown = (
            numbers.interval(v, "accuracy", has_unit=False) if v else numbers.ABSENT for v in values
        )
        rows.append(
            (arm, str(backend), str(scale), numbers.whole(shots) if shots else "exact", *shown)
        )
    if not rows:
        return None
    headers = [f"{material.title(task)}, % (interval)" for task in material.tasks]
    caption = "Arms that were trained with noise or shots: accuracy"
    return arm_table(caption, ["Backend", "Error scale", "Shots", *headers], rows)
