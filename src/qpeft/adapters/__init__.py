"""PEFT methods: importing this room registers them with PEFT."""

from qpeft.adapters.config import QthaConfig
from qpeft.adapters.qtha import QthaModel
from qpeft.adapters.registration import register_method

register_method("qtha", QthaConfig, QthaModel)

__all__ = ["QthaConfig", "QthaModel"]
