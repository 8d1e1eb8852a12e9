"""PEFT methods: importing this room registers them with PEFT."""

from qpeft.adapters.config import QthaConfig
from qpeft.adapters.export import ExportResult, export_surrogate
from qpeft.adapters.qtha import QthaModel
from qpeft.adapters.registration import register_method
from qpeft.adapters.run_on import run_on

register_method("qtha", QthaConfig, QthaModel)

__all__ = ["ExportResult", "QthaConfig", "QthaModel", "export_surrogate", "run_on"]
