"""What a study measures of each trained adapter, and how thoroughly."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator


class MeasureSpec(BaseModel):
    """How thoroughly trained adapters are measured.

    Args:
        n_forgetting_texts: General texts on which forgetting is measured; 0 leaves it out.
        forgetting_tokens: Longest part of a text that counts, in tokens.
        forgetting_file: A text file in place of the base model's own samples.
        cache_folder: Where the samples are kept, so that all arms read the same ones; None draws them
            again, with the same seed.
        n_rows: Token rows of test examples for branch shares and ranks; 0 leaves both out.
        n_branch_examples: Test examples (the first so many) for the ablations; None for all, 0 leaves them out.
        n_noise_examples: The same for the noise picture, where None and 0 mean all.
        noise_error_scales: Factors on the error rates of a chip, on which the circuits then run.
        noise_shots: Numbers of shots of each circuit.
        noise_shots_scale: The factor on the error rates at which the shots are taken; 0 leaves shot noise alone.
        noise_calibration: The chip: a packaged name or a file.
        has_gradients: Whether the gradients of circuit angles are measured.
        seed: Of the samples, the permutations, the shots and the fresh adapter.

    Example:
        >>> MeasureSpec(noise_error_scales=(0, 1)).noise_error_scales
        (0.0, 1.0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_forgetting_texts: int = Field(default=64, ge=0)
    forgetting_tokens: int = Field(default=64, ge=2)
    forgetting_file: Path | None = None
    cache_folder: Path | None = None
    n_rows: int = Field(default=2048, ge=0)
    n_branch_examples: int | None = Field(default=None, ge=0)
    n_noise_examples: int | None = Field(default=None, ge=0)
    noise_error_scales: tuple[float, ...] = ()
    noise_shots: tuple[int, ...] = ()
    noise_shots_scale: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    noise_calibration: str = "wukong"
    has_gradients: bool = True
    seed: int = Field(default=0, ge=0)

    @field_validator("noise_error_scales")
    @classmethod
    def _check_scales(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [scale for scale in value if not 0 <= scale < float("inf")]
        if wrong:
            raise ValueError(f"a factor on error rates is a number of at least 0; got {wrong[0]}")
        return value

    @field_validator("noise_shots")
    @classmethod
    def _check_shots(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        wrong = [shots for shots in value if shots < 1]
        if wrong:
            raise ValueError(f"a circuit has at least 1 shot; got {wrong[0]}")
        return value
