"""A hook in site-packages that imports qpeft at the start of the interpreter.

PEFT knows a method only once the package that brings it has been imported. With the hook on,
`AutoPeftModelForCausalLM.from_pretrained(...)` and other people's programs load a QTHA adapter as they load LoRA.
"""

import sysconfig
from pathlib import Path

from qpeft.errors import QpeftError

FILE_NAME = "qpeft_autoload.pth"
# Harmless where qpeft has been uninstalled since; a .pth line must begin with "import".
LINE = "import importlib.util; importlib.util.find_spec('qpeft') and __import__('qpeft')\n"


def hook_file() -> Path:
    """Return where the hook lies, or would lie."""
    return Path(sysconfig.get_path("purelib")) / FILE_NAME


def is_on() -> bool:
    """Return whether the hook is in place."""
    return hook_file().exists()


def turn_on() -> None:
    """Put the hook in place.

    Raises:
        QpeftError: site-packages cannot be written to.
    """
    file = hook_file()
    draft = file.with_suffix(".tmp")
    try:
        draft.write_text(LINE, encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise QpeftError(
            f"Cannot write {file} ({error.strerror}). Use a virtual environment, or put "
            f"`import qpeft` into your program."
        ) from error


def turn_off() -> None:
    """Take the hook away; harmless if it is not there."""
    hook_file().unlink(missing_ok=True)
