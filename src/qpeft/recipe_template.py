"""The commented recipe that `qpeft init` writes."""

from importlib.resources import files
from pathlib import Path

from qpeft.errors import QpeftError


def write_template(path: Path, *, is_replacing: bool = False) -> None:
    """Write the commented recipe.

    Raises:
        QpeftError: The file is there already and `is_replacing` is not set, or its folder is not.
    """
    if path.exists() and not is_replacing:
        raise QpeftError(
            f"{path} is there already. Choose another name, or replace it with --force."
        )
    if not path.parent.is_dir():
        raise QpeftError(f"There is no folder {path.parent} to write {path.name} into.")
    text = files("qpeft").joinpath("recipe_template.yaml").read_text(encoding="utf-8")
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
