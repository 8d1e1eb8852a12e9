"""Trains QTHA and LoRA on models of 1.5 and 7 billion parameters with random weights, within 24 GB.

    python benchmarks/large_model.py --quick
    python benchmarks/large_model.py --json large_model.json
    python benchmarks/large_model.py --models deepseek-r1-distill-qwen-7b --rounds 1

Weights are made in bf16, never in float32, and trained beside with gradient checkpointing. The arms take turns in
one process on one thread; CPU time and peak memory of the same steps are compared.

A CPU without bf16 instructions multiplies bf16 matrices up to 200 times slower than float32 ones. There, frozen
weights stay in bf16 and are widened block by block for each product, for all arms alike (`--compute`).
"""

import argparse
import ctypes
import gc
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config
from transformers.initialization import no_init_weights

from adapted_models import (
    N_WARM_UP_TOKENS,
    ONE_THREAD,
    Arm,
    Result,
    attached,
    count_parameters,
    has_bf16_instructions,
    in_one_thread,
    lora,
    machine_lines,
    markdown,
    qtha,
    ratio_to,
    status_megabytes,
    time_one_step,
    train_one_step,
    verdicts,
)

SHAPES = {
    "qwen2.5-1.5b": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "deepseek-r1-distill-qwen-7b": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 160,
        "vocab_size": 256,
        "tie_word_embeddings": False,
    },
}
TARGETS = ["q_proj", "v_proj"]
ARMS = (lora(8), qtha(4), qtha(10), qtha(10, 10))
TIME_TARGETS = {"QTHA r=4 L=1": 1.05}
MEMORY_TARGET = 1.05
SLOW = 3.0  # an arm of more than so many times LoRA's step takes part in the first round only
# malloc gives memory back at once, so that one arm's leftovers do not hide the next one's needs.
ENVIRONMENT = ONE_THREAD | dict.fromkeys(
    ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "1048576"
)
BLOCK_ELEMENTS = 16 * 2**20  # of a weight that is widened at a time: 64 MB in float32


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    print(machine_lines("Training beside a large model"), flush=True)
    report = {}
    for name in options.models:
        base = build(name, options.compute)
        size = sum(p.numel() for p in base.parameters())
        print(f"{name}: made, {status_megabytes('VmRSS'):.0f} MB", file=sys.stderr, flush=True)
        report[name] = measure(base, options)
        print(section(name, size, report[name], options), flush=True)
        del base
        gc.collect()
    if options.json:
        listed = {name: [vars(result) for result in found] for name, found in report.items()}
        options.json.write_text(json.dumps(listed, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny shape")
    parser.add_argument("--json", type=Path, help="also write every measured time to this file")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=["qwen2.5-1.5b"])
    parser.add_argument("--only", nargs="+", metavar="ARM", help="arms beside the first")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument(
        "--compute",
        choices=("auto", "bf16", "float32"),
        default="auto",
        help="of products with frozen weights; auto: float32 where there are no bf16 instructions",
    )
    options = parser.parse_args()
    if options.quick:
        options.models = ["tiny"]
    if options.compute == "auto":
        options.compute = "bf16" if has_bf16_instructions() else "float32"
    unknown = set(options.only or ()) - {arm.name for arm in ARMS}
    if unknown:
        parser.error(f"no arm {sorted(unknown)}; there are {[arm.name for arm in ARMS]}")
    options.arms = [a for a in ARMS if not options.only or a is ARMS[0] or a.name in options.only]
    return options


def build(name: str, compute: str) -> PreTrainedModel:
    """Return a model with random weights, made in bf16 one tensor at a time."""
    config = Qwen2Config(**SHAPES[name])
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if config.tie_word_embeddings:
        model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:
            parameter.normal_(std=0.02, generator=generator)
        else:
            parameter.zero_()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.weight.fill_(1)
    if compute == "float32":
        widen_products(model)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model


def widen_products(model: nn.Module) -> None:
    """Let every linear layer compute in float32 from the weight that it keeps in bf16."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                with torch.device("meta"):
                    wide = WideLinear(layer.in_features, layer.out_features, bias=False)
                wide.weight, wide.bias = layer.weight, layer.bias
                setattr(parent, name, wide)


class WideLinear(nn.Linear):
    """A frozen linear layer that widens a block of its weight at a time."""

    def forward(self, input: Tensor) -> Tensor:
        result = _WideProduct.apply(input, self.weight)
        return result if self.bias is None else result + self.bias


class _WideProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        rows = x.flatten(0, -2).float()
        blocks = [rows @ block.float().T for block in _blocks(weight)]
        return torch.cat(blocks, dim=1).to(x.dtype).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        rows = gradient.flatten(0, -2).float()
        result, start = rows.new_zeros(len(rows), weight.shape[1]), 0
        for block in _blocks(weight):
            result.addmm_(rows[:, start : start + len(block)], block.float())
            start += len(block)
        return result.to(gradient.dtype).unflatten(0, gradient.shape[:-1]), None


def _blocks(weight: Tensor) -> Sequence[Tensor]:
    return weight.split(max(1, BLOCK_ELEMENTS // weight.shape[1]))


def measure(base: PreTrainedModel, options: argparse.Namespace) -> list[Result]:
    """Let the arms take turns; each step gives a time and a peak."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(base.config.vocab_size, (1, options.tokens), generator=generator)
    results = [Result(a.name, "", *count_parameters(base, a.config(TARGETS))) for a in options.arms]
    measure_once(base, options.arms[0], tokens, Result("the process's first step, which is slower"))
    for turn in range(options.rounds):
        for arm, result in zip(options.arms, results, strict=True):
            if turn and ratio_to(result, results[0])[0] > SLOW:
                continue
            measure_once(base, arm, tokens, result)
            seconds, peak = result.cpu_seconds[-1], result.peak_megabytes
            line = f"round {turn + 1}, {arm.name}: {seconds:.1f} s, peak {peak:.0f} MB"
            print(line, file=sys.stderr, flush=True)
    return results


def measure_once(base: PreTrainedModel, arm: Arm, tokens: Tensor, result: Result) -> None:
    """Train two steps, the first with few tokens, and add the second one's time and peak."""
    with attached(base, arm.config(TARGETS)) as (model, optimizer):
        train_one_step(model, optimizer, tokens[:, :N_WARM_UP_TOKENS])
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status_megabytes("VmRSS")
        time_one_step(model, optimizer, tokens, result)
        peak = status_megabytes("VmHWM")
    result.peak_megabytes = max(peak, result.peak_megabytes or 0)
    result.added_megabytes = max(peak - before, result.added_megabytes or 0)


def section(name: str, size: int, results: Sequence[Result], options: argparse.Namespace) -> str:
    """Return the table of one model and what it says of the targets."""
    header = ["arm", "trained", "LoRA, same r", "saving", "CPU s", "ratio (range)", "wall s"]
    header += ["step adds, MB", "peak, MB", "ratio"]
    rows, first = [header], results[0]
    for result in results:
        median, low, high = ratio_to(result, first)
        rows.append(
            [
                result.name,
                f"{result.n_parameters:,}",
                f"{result.n_lora_parameters:,}",
                f"{result.saving:.1%}",
                f"{statistics.median(result.cpu_seconds):.3g}",
                f"{median:.3f} ({low:.3f} to {high:.3f})",
                f"{statistics.median(result.wall_seconds):.3g}",
                f"{result.added_megabytes:.0f}",
                f"{result.peak_megabytes:.0f}",
                f"{result.peak_megabytes / first.peak_megabytes:.3f}",
            ]
        )
    title = (
        f"## {name}: {size / 1e9:.2f} billion parameters in bf16, {options.tokens} tokens, "
        f"gradient checkpointing, products in {options.compute}"
    )
    lines = verdicts(results, TIME_TARGETS, MEMORY_TARGET)
    return "\n".join([title, "", markdown(rows), "", lines, ""])


if __name__ == "__main__":
    in_one_thread(ENVIRONMENT)
    main()
