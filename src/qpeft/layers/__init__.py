"""torch.nn building blocks: the quantum layer, tensor trains and what stands in for a circuit."""

from qpeft.layers.controls import ConstantCore, FourierCore, MlpCore
from qpeft.layers.evaluation import Evaluation
from qpeft.layers.mode_sizes import mode_sizes
from qpeft.layers.quantum import QuantumLayer
from qpeft.layers.tensor_train import TensorTrain

__all__ = [
    "ConstantCore",
    "Evaluation",
    "FourierCore",
    "MlpCore",
    "QuantumLayer",
    "TensorTrain",
    "mode_sizes",
]
