"""One arm's training: TRL's SFTTrainer, fed with our tokens, with a cheaper loss on CPU.

Every arm sees the same batches in the same order: the sampler is seeded by the recipe and takes
nothing from the generator that draws the adapter's weights. Ctrl-C ends the step that is running,
writes a checkpoint and stops; a second one stops at once.
"""

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftModel
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from qpeft.errors import QpeftError
from qpeft.recipe import Recipe, TrainingSpec
from qpeft.training.adapting import quiet_libraries
from qpeft.training.compiling import check_compiler, compiled
from qpeft.training.encoding import EncodedSplit, pad_token_id
from qpeft.training.losses import IGNORED, completion_loss_sum, is_prompt_learning
from qpeft.training.record import MetricsLog
from qpeft.training.reporter import Reporter


def make_trainer(
    recipe: Recipe,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: dict[str, EncodedSplit],
    folder: Path,
    *,
    n_steps: int,
    callbacks: list[TrainerCallback],
    first_step: int = 0,
) -> SFTTrainer:
    """Return the trainer of one arm.

    Args:
        recipe: The resolved recipe.
        model: The base model with the arm's fresh adapter.
        tokenizer: The base model's tokenizer.
        splits: The encoded `train` and `validation` parts; the latter may be empty.
        folder: Where checkpoints and the loggers' files go.
        n_steps: Optimiser steps.
        callbacks: What watches the training.
        first_step: The step of the checkpoint that the training will go on from.

    Raises:
        ConfigError: `torch_compile` is set and there is no compiler.
    """
    spec = recipe.training
    if spec.torch_compile:
        check_compiler(model.device)
    validation = splits["validation"]
    has_validation = bool(validation.rows)
    stopping = spec.early_stopping if has_validation else None
    if stopping is not None:
        callbacks = [*callbacks, EarlyStoppingCallback(early_stopping_patience=stopping)]
    if "tensorboard" in spec.loggers:
        callbacks = [*callbacks, _tensorboard(folder.parent / "tensorboard", first_step)]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_token_id(tokenizer))
    with quiet_libraries():
        trainer = _Trainer(
            model=model,
            args=_training_config(recipe, model, folder, n_steps, has_validation, stopping),
            train_dataset=_dataset(splits["train"], spec),
            eval_dataset=_dataset(validation, spec) if has_validation else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
    trainer.compiles = spec.torch_compile
    trainer.angle_rate_ratio = spec.angle_rate_ratio
    trainer.remove_callback(PrinterCallback)
    return trainer


class Watch(TrainerCallback):
    """Writes metrics.jsonl, tells the reporter, and stops when the loss is no number.

    Args:
        log: The arm's metrics.
        reporter: Told of every step and validation.
        n_steps: Optimiser steps of the arm.
        has_validation: Whether there is a validation loss to take at the last step.
    """

    def __init__(
        self, log: MetricsLog, reporter: Reporter, n_steps: int, *, has_validation: bool
    ) -> None:
        self._log = log
        self._reporter = reporter
        self._n_steps = n_steps
        self._has_validation = has_validation
        self._began = time.monotonic() - log.seconds

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for a validation at the last step, whatever the interval."""
        if self._has_validation and state.global_step >= self._n_steps:
            control.should_evaluate = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Record one step or one validation."""
        logs = logs or {}
        row: dict[str, Any] = {"step": state.global_step}
        if "loss" in logs:
            row |= {
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs.get("grad_norm"),
                "tokens": int(logs["num_input_tokens_seen"]),
            }
        elif "eval_loss" in logs:
            row["validation_loss"] = logs["eval_loss"]
        else:
            return
        row["seconds"] = round(time.monotonic() - self._began, 3)
        loss = row.get("loss", row.get("validation_loss", 0.0))
        if not math.isfinite(loss):
            raise QpeftError(
                f"The loss is {loss} at step {state.global_step}. "
                f"Lower training.learning_rate ({args.learning_rate}) or training.max_grad_norm."
            )
        self._log.append(row)
        if "loss" in row:
            self._reporter.step(state.global_step, self._n_steps, row["loss"], row["learning_rate"])
        else:
            self._reporter.validation(state.global_step, row["validation_loss"])


class _Trainer(SFTTrainer):
    """SFTTrainer whose loss on CPU takes logits at the completion's positions only.

    TRL's own scores, on every device without Triton, all positions against the whole vocabulary
    in chunks, twice, and computes entropy and accuracy beside them. On a GPU it is compact, so it
    is used there.
    """

    compiles = False
    """Whether the model's layers run compiled while they are trained."""

    angle_rate_ratio: float | None = None
    """The learning rate of circuit angles over that of all other parameters; None for the same rate."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Return the optimizer, with circuit angles in groups of their own if they have a rate of their own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self.angle_rate_ratio is not None:
            named = self.model.named_parameters()
            angles = {id(p) for name, p in named if name.endswith(_ANGLES)}
            _split_groups(optimizer, angles, self.angle_rate_ratio)
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; with `compiles`, the layers are compiled until it ends, however it ends."""
        with compiled(self.model) if self.compiles else nullcontext():
            return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the validation's figures; it runs uncompiled, which is no second compilation."""
        with torch.compiler.set_stance("force_eager" if self.compiles else "default"):
            figures: dict[str, float] = super().evaluate(*args, **kwargs)
        return figures

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss of the labelled tokens of an optimiser step."""
        is_plain = not (return_outputs or self.aux_loss_enabled or is_prompt_learning(self.model))
        if inputs["input_ids"].device.type != "cpu" or not is_plain:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        kept = {key: value for key, value in inputs.items() if key != "labels"}
        loss, n_tokens = completion_loss_sum(model, {**kept, "use_cache": False}, labels)
        if num_items_in_batch is None:
            return loss / n_tokens.clamp(min=1)
        mean = loss / num_items_in_batch
        # The count is of all processes, and DDP averages their gradients.
        return mean * self.accelerator.num_processes

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the run writes its own."""


_ANGLES = ".core.angles"
"""How the names of circuit angles end."""


def _split_groups(optimizer: torch.optim.Optimizer, chosen: set[int], ratio: float) -> None:
    """Move parameters, chosen by their ids, to groups whose learning rate is `ratio` times that of the others."""
    for group in list(optimizer.param_groups):
        own = [p for p in group["params"] if id(p) in chosen]
        if own:
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            optimizer.add_param_group({**group, "params": own, "lr": ratio * group["lr"]})


def _training_config(
    recipe: Recipe,
    model: PeftModel,
    folder: Path,
    n_steps: int,
    has_validation: bool,
    stopping: int | None,
) -> SFTConfig:
    spec = recipe.training
    is_cpu = model.device.type == "cpu"
    validates = has_validation and spec.evaluate_every is not None
    # The best checkpoint can only be one that was validated.
    save_every = spec.evaluate_every if stopping is not None else spec.save_every
    return SFTConfig(
        output_dir=str(folder),
        max_steps=n_steps,
        per_device_train_batch_size=spec.batch_size,
        per_device_eval_batch_size=recipe.evaluation.batch_size,
        gradient_accumulation_steps=spec.gradient_accumulation,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.schedule,
        warmup_steps=spec.warmup_steps,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        max_length=spec.max_length if spec.packing else None,  # rows are cut already
        packing=spec.packing,
        gradient_checkpointing=spec.gradient_checkpointing,
        bf16=model.dtype == torch.bfloat16 and not is_cpu,
        fp16=False,
        use_cpu=is_cpu,
        eval_strategy="steps" if validates else "no",
        eval_steps=spec.evaluate_every if validates else None,
        save_strategy="no" if save_every is None else "steps",
        save_steps=save_every or n_steps,
        save_total_limit=spec.keep_checkpoints,
        load_best_model_at_end=stopping is not None,
        metric_for_best_model="eval_loss" if stopping is not None else None,
        greater_is_better=False if stopping is not None else None,
        restore_callback_states_from_checkpoint=stopping is not None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        report_to=[name for name in spec.loggers if name != "tensorboard"] or "none",
        disable_tqdm=True,
        dataloader_pin_memory=not is_cpu,
        prediction_loss_only=True,
        seed=recipe.seed,
        data_seed=recipe.seed,
    )


def _tensorboard(folder: Path, first_step: int) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    # Steps that a resumed run does again must not appear twice.
    purge_step = first_step + 1 if first_step else None
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=purge_step))


def _dataset(split: EncodedSplit, spec: TrainingSpec) -> datasets.Dataset:
    # Rows with labels are taken by TRL as they are: nothing is tokenised a second time.
    masks_prompt = spec.loss_on == "completion"
    return datasets.Dataset.from_dict(
        {
            "input_ids": [prompt + completion for prompt, completion in split.rows],
            "labels": [
                ([IGNORED] * len(prompt) if masks_prompt else prompt) + completion
                for prompt, completion in split.rows
            ],
        }
    )
