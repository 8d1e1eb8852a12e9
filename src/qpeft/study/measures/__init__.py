"""What a study measures of a trained adapter itself, and of an ansatz without any training.

`measure_run` returns these keys. In place of a measure that does not apply to an arm, or that was not asked
for, stands {"left_out": reason}. Losses are nats a token, accuracies and shares in [0, 1]; "modules" lists one
entry for each adapted layer, with its "module" (name) and "layer" (index of the decoder layer, -1 without one).
Test examples are answered as the recipe says, with the first of its `n_shots`.

    adapter_bytes                size of the saved weights
    forgetting                   on general text, see `forgetting`
      .difference                loss with the adapter less that without (goes into RunRow.forgetting)
      .standard_error            of the difference, over texts
      .with_adapter, .without_adapter
      .divergence                Kullback-Leibler divergence from the base model, over the whole vocabulary
      .n_texts, .n_tokens, .text how much, and what text it was
    branch                       QTHA with a core (circuit, or control in its place), see `branch`
      .share                     norm of the core's branch / (that + norm of the dense branch) in a layer's output,
                                 mean over rows and layers
      .varying_share             the same of what differs from row to row: root mean square deviation from the mean
      .nonlinear_share           root mean square of what no affine function of z could give, / that of the update
      .modules                   {module, layer, share, varying_share, nonlinear_share}
      .n_rows                    token rows of test examples
      .n_examples                test examples of the ablations
      .unablated                 {accuracy, test_loss} of the whole adapter on them
      .ablated                   without the core (q = 0; with fusion "hadamard" q = 1):
                                 {accuracy, accuracy_difference, test_loss, test_loss_difference, changed_answers};
                                 differences are to the unablated; accuracy falls, loss rises if the core matters
      .shuffled                  the same where each token has the q of another token of the same pass
        .among                   "tokens"; where it is missing, padding took part
    effective_rank               exp(entropy of the singular values' shares) of the update on token rows
      .mean                      over the adapted layers; 0 for an update of zero
      .by_layer                  {index of the decoder layer, as text: mean over its modules}
      .modules                   {module, layer, rank, size}; size is the update's root mean square / that of the
                                 base layer's output
      .n_rows
    noise                        QTHA with circuits, where the spec asks for it, see `noise`
      .n_examples, .calibration
      .unchanged                 {accuracy, test_loss} where the arm was trained
      .rows                      {error_scale, shots (None: exact), and the five keys of `ablated`}
      .shots_of                  "surrogate" or "token": what is measured with the shots
    angle_gradients              QTHA with trained angles, on one batch of training data, see `angle_gradients`
      .n_examples
      .trained, .fresh           at the trained point, and with a fresh adapter, each with:
        .loss                    of the batch
        .norm_angles, .norm_others   norm of the gradient of all angles, and of all other trained parameters
        .rms_angles, .rms_others     root mean square a parameter, which does not depend on their number
        .ratio                   rms_angles / rms_others
        .by_layer                {index of the decoder layer, as text: rms of its angles' gradients}
        .by_angle                {gate, qubits, rms} for each angle of the circuit; empty where circuits differ
        .modules                 {module, layer, n_qubits, n_angles, rms}
    seconds                      how long each of them took

Everything public is imported on first use: the modules below pull in torch and PEFT, which a study file does not
need in order to be read.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qpeft.study.measures.ansatz import measure_ansatz, measure_ansatzes
    from qpeft.study.measures.run import measure_run
    from qpeft.study.measures.spec import MeasureSpec

__all__ = ["MeasureSpec", "measure_ansatz", "measure_ansatzes", "measure_run"]

_HOMES = {
    "MeasureSpec": "spec",
    "measure_ansatz": "ansatz",
    "measure_ansatzes": "ansatz",
    "measure_run": "run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
