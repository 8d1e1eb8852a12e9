"""Runs an action when another package has been imported, without importing it.

`import qpeft` registers with PEFT. Importing PEFT takes seconds, so where it is not loaded yet, the registration
waits for it; that keeps the command line and the autoload hook fast.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def when_imported(module_name: str, action: Callable[[], object]) -> None:
    """Run an action when a module has been imported: at once if it is there already."""
    if module_name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _ImportWatcher(module_name, action))


class _ImportWatcher(importlib.abc.MetaPathFinder):
    """Finds one module through the other finders, and runs the action behind its execution."""

    def __init__(self, module_name: str, action: Callable[[], object]):
        self.module_name, self.action = module_name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the real module's spec with a loader that runs the action afterwards."""
        if fullname != self.module_name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_then_act(module: ModuleType) -> None:
            execute(module)
            self.action()

        spec.loader.exec_module = execute_then_act  # type: ignore[method-assign]
        return spec
