"""`QthaConfig`: what a user says of a QTHA adapter (arXiv 2503.12790)."""

from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig

from qpeft.adapters.registration import add_peft_type
from qpeft.circuits import ANSATZE
from qpeft.errors import ConfigError, did_you_mean
from qpeft.layers.controls import ANGLE_MAPS
from qpeft.layers.evaluation import EXACT, GRADIENTS, Evaluation
from qpeft.layers.gradients import RULES
from qpeft.layers.quantum import ANGLE_INITS

CORES = ("quantum", "none", "constant", "mlp", "product", "frozen", "fourier")
FUSIONS = ("linear", "hadamard")
SIZED_AS = ("quantum", "own")


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class QthaConfig(PeftConfig):
    """Configuration of Quantum Tensor Hybrid Adaptation, a PEFT method (arXiv 2503.12790).

    An adapted layer computes

        a = MPO_A(dropout(x)),  z = A a,  q = QNN(z),  h = C z + Q q
        y = W0 x + (alpha / r) MPO_B(B h)

    Args:
        r: Rank, which is also the number of qubits.
        alpha: The update is scaled by alpha / r; None means 2 r.
        n_layers: Circuit layers L; `n_layers=r` is the paper's setting.
        ansatz: "reupload" (reference order), "reupload_v1" or "encode_once".
        fusion: "linear" for h = C z + Q q, "hadamard" for h = (C z) * q.
        core: "quantum", or a control in the circuit's place: "none", "constant", "mlp", "product", "frozen"
            or "fourier".
        groups: Blocks of r / groups qubits that never interact.
        angle_map: What is done to z on its way into the core: nothing ("raw"), pi * tanh(z) ("tanh"), or
            z divided by its root mean square over the r inputs ("rms").
        angle_init: "uniform" in (-pi, pi) or "small".
        inner_width: w, the width between the tensor trains and the dense r-dimensional part.
        bond_dim: chi, the tensor trains' bond dimension.
        n_cores: k, cores of each tensor train.
        mode_sizes: Factorisations by hand, {width: [sizes]}; other widths are automatic.
        target_saving: For example 0.76: chooses `inner_width` and `bond_dim` for each layer so that
            it has at least this share fewer parameters than LoRA of the same r.
        sized_as: For which core `target_saving` chooses the sizes of a control: "quantum" gives it the tensor
            trains of the circuit that it stands for, "own" spends what it saves on wider ones.
        dropout: Dropout probability on x.
        backend: Where the circuits run; not part of what is trained (`qpeft.adapters.run_on` changes it).
        backend_options: Keyword arguments of the backend, for example {"device": "aer"}; never a key.
        backend_layers: Indices of the decoder layers whose circuits run on `backend`; those of all others run
            on the exact simulator. None means all.
        shots: Of each circuit; None for exact expectation values.
        gradient: "auto", "autograd", "surrogate", "parameter_shift", "spsa" or "straight_through"; see
            `qpeft.layers.Evaluation`.
        angle_gradient: With the surrogate, how the gradient reaches the trained angles.
        surrogate_weight: With the surrogate, and with core="fourier", leave out terms in which more than so many
            inputs of a group occur.
        target_modules: Names, a regular expression or "all-linear"; None chooses the query and value
            projections that PEFT's LoRA chooses for the model type.
        exclude_modules: Names or a regular expression that are left out.
        layers_to_transform: Indices of the layers to adapt; None means all.
        layers_pattern: Name of the module list that `layers_to_transform` counts.
        rank_pattern: Ranks that differ from `r`, {name or regular expression: rank}.
        modules_to_save: Other modules to train and save whole.
        init_weights: False starts the last core at random too, so that the fresh adapter differs
            from the base model (for tests).

    Raises:
        ConfigError: An option is unknown or out of range; it says which and what is valid.
    """

    r: int = _option(4, "Rank, which is also the number of qubits.")
    alpha: float | None = _option(None, "The update is scaled by alpha / r; None means 2 r.")
    n_layers: int = _option(1, "Circuit layers L.")
    ansatz: str = _option("reupload", f"One of {', '.join(ANSATZE)}.")
    fusion: str = _option("linear", f"One of {', '.join(FUSIONS)}.")
    core: str = _option("quantum", f"One of {', '.join(CORES)}.")
    groups: int = _option(1, "Blocks of r / groups qubits that never interact.")
    angle_map: str = _option("raw", f"One of {', '.join(ANGLE_MAPS)}.")
    angle_init: str = _option("uniform", f"One of {', '.join(ANGLE_INITS)}.")
    inner_width: int = _option(256, "Width w between the tensor trains and the r-dimensional part.")
    bond_dim: int = _option(8, "Bond dimension chi of the tensor trains.")
    n_cores: int = _option(4, "Number of cores k of each tensor train.")
    mode_sizes: dict[int, list[int]] | None = _option(None, "Factorisations: {width: [sizes]}.")
    target_saving: float | None = _option(None, "Saving against LoRA at the same r, e.g. 0.76.")
    sized_as: str = _option("quantum", f"Sizes of a control: one of {', '.join(SIZED_AS)}.")
    dropout: float = _option(0.0, "Dropout probability on x.")
    backend: str = _option("exact", "Where the circuits run.")
    backend_options: dict[str, Any] | None = _option(None, "Options of the backend; never a key.")
    backend_layers: list[int] | None = _option(None, "Layers whose circuits run there; None: all.")
    shots: int | None = _option(None, "None for exact expectation values.")
    gradient: str = _option("auto", f"One of {', '.join(GRADIENTS)}.")
    angle_gradient: str = _option("parameter_shift", f"One of {', '.join(RULES)}.")
    surrogate_weight: int | None = _option(None, "Most inputs in a term of the surrogate.")
    target_modules: list[str] | str | None = _option(None, "Names, a regex or 'all-linear'.")
    exclude_modules: list[str] | str | None = _option(None, "Names or a regex to leave out.")
    layers_to_transform: list[int] | int | None = _option(None, "Indices of layers to adapt.")
    layers_pattern: list[str] | str | None = _option(None, "Name of the layers' module list.")
    rank_pattern: dict[str, int] | None = field(
        default_factory=dict, metadata={"help": "Ranks that differ from r, by name or regex."}
    )
    modules_to_save: list[str] | None = _option(None, "Other modules to train and save whole.")
    init_weights: bool = _option(True, "False starts the last core at random too.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type("QTHA")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
        if self.mode_sizes is not None:  # JSON turns the widths into strings
            self.mode_sizes = {int(width): list(m) for width, m in self.mode_sizes.items()}
        self._check_names()
        self._check_numbers()
        if self.layers_pattern and self.layers_to_transform is None:
            raise ConfigError("layers_pattern is given without layers_to_transform; give both.")
        for name in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and getattr(self, name) is not None:
                raise ConfigError(
                    f"{name} cannot be combined with a regular expression in target_modules "
                    f"({self.target_modules!r}); put the layers into the expression."
                )

    def rank_of(self, module_name: str) -> int:
        """Return the rank for a module, from `rank_pattern` where it matches, otherwise `r`."""
        from peft.utils.other import get_pattern_key

        patterns = self.rank_pattern or {}
        return patterns.get(get_pattern_key(list(patterns), module_name), self.r)

    def scaling_of(self, r: int) -> float:
        """Return alpha / r, with alpha = 2 r where it is not given."""
        return 2.0 if self.alpha is None else self.alpha / r

    def evaluation_of(self, module_name: str) -> Evaluation:
        """Return where the circuits of a module run; its layer is the first number in its name."""
        index = next((int(part) for part in module_name.split(".") if part.isdecimal()), None)
        if self.backend_layers is not None and module_name and index not in self.backend_layers:
            return EXACT
        return Evaluation(
            self.backend,
            self.backend_options or {},
            self.shots,
            self.gradient,
            self.angle_gradient,
            None if self.core == "fourier" else self.surrogate_weight,
        )

    def _check_names(self) -> None:
        for name, valid in (
            ("ansatz", tuple(ANSATZE)),
            ("fusion", FUSIONS),
            ("core", CORES),
            ("sized_as", SIZED_AS),
            ("angle_map", ANGLE_MAPS),
            ("angle_init", tuple(ANGLE_INITS)),
        ):
            value = getattr(self, name)
            if value not in valid:
                raise ConfigError(f"Unknown {name} {value!r}.{did_you_mean(str(value), valid)}")
        self.evaluation_of("")

    def _check_numbers(self) -> None:
        for name in ("r", "n_layers", "groups", "inner_width", "bond_dim", "n_cores"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}.")
        ranks = {"r": self.r, **(self.rank_pattern or {})}
        for name, rank in ranks.items():
            if rank < 1 or rank % self.groups:
                raise ConfigError(
                    f"groups must divide every rank; got groups={self.groups} and {name}={rank}."
                )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be in [0, 1); got {self.dropout}.")
        if self.target_saving is not None and not 0.0 < self.target_saving < 1.0:
            raise ConfigError(
                f"target_saving is a share between 0 and 1, for example 0.76; got "
                f"{self.target_saving}."
            )
