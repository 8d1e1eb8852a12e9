"""Origin's protocol as its client pyqpanda3 0.5.1 speaks it: what a request says, what an answer looks like.

Every answer but the list of machines is an envelope {"success", "code", "message", "obj"}.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qpeft.chips.calibration import Calibration
from qpeft.service.compiling import TaskOptions
from qpeft.service.settings import MAX_PROGRAMS
from qpeft.service.store import Task, TaskState

RESOURCES = "/oqcs/task/getResourceList.json"
SUBMIT = "/oqcs/task/origin/submit.json"
TASK_DETAIL = "/oqcs/task/origin/taskDetail.json"
CHIP_INFO = "/oqcs/task/origin/chipInfo.json"
CANCEL = "/oqcs/task/cancelTask.json"
BEST_BLOCKS = "/oqcs/task/management/bestQubitBlocks.json"

WIRE_IDS = {"origin_wukong": "72"}
"""Chips that the client names otherwise on the wire than to its user."""

OK = 10000
BAD_REQUEST = 40000
BAD_KEY = 40100
UNKNOWN = 40400
TOO_MUCH = 42900
"""Codes of refusals are ours: which ones Origin's cloud uses is not known here."""

_REAL_CHIP = "5"  # QMachineType
_WAITING, _COMPUTING, _FINISHED, _FAILED, _QUEUING = "1", "2", "3", "4", "5"
_AMEND_FLAGS = (0, 1, 3)


class RefusalError(Exception):
    """A request that the service refuses.

    Args:
        code: Of the envelope.
        message: What was wrong and what to do; the client shows it to its user.
    """

    def __init__(self, code: int, message: str):
        self.code, self.message = code, message
        super().__init__(message)


@dataclass(frozen=True)
class Submission:
    """A request to run programs.

    Args:
        chip: As the wire names it.
        programs: OriginIR.
        shots: Of each program.
        options: What is asked for beside.
    """

    chip: str
    programs: tuple[str, ...]
    shots: int
    options: TaskOptions


def key_of(authorization: str) -> str | None:
    """Return the key in an Authorization header, or None."""
    scheme, equals, key = authorization.partition("=")
    return key if equals and scheme.strip() == "oqcs_auth" and key else None


def parse_object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a request.

    Raises:
        RefusalError: It is not one.
    """
    try:
        data = json.loads(body)
    except ValueError as error:
        raise RefusalError(BAD_REQUEST, f"The request is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise RefusalError(BAD_REQUEST, "The request must be a JSON object.")
    return data


def text_field(data: Mapping[str, Any], name: str) -> str:
    """Return a field that must be text.

    Raises:
        RefusalError: It is missing or something else.
    """
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise RefusalError(BAD_REQUEST, f"The request needs the text '{name}'.")
    return value


def count_field(data: Mapping[str, Any], name: str, most: int) -> int:
    """Return a field that must be a number from 1 to most.

    Raises:
        RefusalError: It is missing or something else.
    """
    value = data.get(name)
    if type(value) is not int or not 1 <= value <= most:
        raise RefusalError(BAD_REQUEST, f"'{name}' must be from 1 to {most}; got {value!r}.")
    return value


def parse_submission(body: bytes, max_shots: int) -> Submission:
    """Read a submission and hold it to the limits that need no look at the chip.

    Raises:
        RefusalError: Something is missing, of the wrong form or too much.
    """
    data = parse_object(body)
    _check_kind(data)
    programs = data.get("QProg")
    if not isinstance(programs, list) or not all(isinstance(text, str) for text in programs):
        raise RefusalError(BAD_REQUEST, "'QProg' must be a list of OriginIR texts.")
    if not 1 <= len(programs) <= MAX_PROGRAMS:
        raise RefusalError(
            TOO_MUCH,
            f"A task has 1 to {MAX_PROGRAMS} programs; got {len(programs)}. Send several tasks.",
        )
    configuration = data.get("Configuration")
    if not isinstance(configuration, dict):
        raise RefusalError(BAD_REQUEST, "The request needs the object 'Configuration'.")
    return Submission(
        chip=text_field(data, "ChipID"),
        programs=tuple(programs),
        shots=count_field(configuration, "shot", max_shots),
        options=_parse_options(configuration),
    )


def _check_kind(data: Mapping[str, Any]) -> None:
    if "QProgBytes" in data:
        raise RefusalError(
            BAD_REQUEST,
            "This service reads OriginIR only. Run with enable_binary_encoding=False.",
        )
    if str(data.get("QMachineType")) != _REAL_CHIP or "QProg" not in data:
        raise RefusalError(
            BAD_REQUEST,
            "This service runs programs on emulated chips only: no amplitude simulators, no tomography, "
            "no instructions. Use backend.run([...]) of a chip.",
        )


def _parse_options(configuration: Mapping[str, Any]) -> TaskOptions:
    flag = configuration.get("amendFlag", 1)
    if flag not in _AMEND_FLAGS:
        raise RefusalError(BAD_REQUEST, f"amendFlag is 0, 1 or 3; got {flag!r}.")
    block = configuration.get("specified_block", [])
    if not isinstance(block, list) or not all(type(q) is int and q >= 0 for q in block):
        raise RefusalError(BAD_REQUEST, "specified_block must be a list of qubit numbers.")
    return TaskOptions(
        is_amended=flag != 0,
        has_mapping=_flag(configuration, "mappingFlag"),
        has_optimization=_flag(configuration, "circuitOptimization"),
        has_counts=_flag(configuration, "isProbcount"),
        block=tuple(sorted(set(block))),
    )


def _flag(configuration: Mapping[str, Any], name: str) -> bool:
    value = configuration.get(name, True)
    if not isinstance(value, bool):
        raise RefusalError(BAD_REQUEST, f"'{name}' must be true or false; got {value!r}.")
    return value


def success(obj: Any) -> dict[str, Any]:
    """Return the envelope of an answer."""
    return {"success": True, "code": OK, "message": "", "obj": obj}


def refusal(error: RefusalError) -> dict[str, Any]:
    """Return the envelope of a refusal."""
    return {"success": False, "code": error.code, "message": error.message, "obj": None}


def task_answer(task: Task, result: Any, is_due: bool) -> dict[str, Any]:
    """Describe a task.

    Args:
        task: The task.
        result: What the worker kept, of a finished task.
        is_due: Whether a queued task waits for others only.
    """
    states = {
        TaskState.QUEUED: _QUEUING if is_due else _WAITING,
        TaskState.COMPUTING: _COMPUTING,
        TaskState.FINISHED: _FINISHED,
        TaskState.FAILED: _FAILED,
        TaskState.CANCELLED: _FAILED,  # the client knows no other word for it
    }
    answer: dict[str, Any] = {
        "taskId": task.task_id,
        "taskState": states[task.state],
        "taskStatus": states[task.state],
    }
    if task.started is not None:
        answer["startTime"] = round(task.started * 1000)
    if task.started is not None and task.ended is not None:
        answer["totalTime"] = round((task.ended - task.started) * 1000)
    if task.state is TaskState.FINISHED:
        answer |= result
    elif states[task.state] == _FAILED:
        answer |= {"errCode": 1, "errInfo": task.error}
    return answer


def outcome_text(outcome: Mapping[int, float]) -> str:
    """Return one program's counts or probabilities as the text that stands in an answer."""
    keys = sorted(outcome)
    return json.dumps({"key": [hex(key) for key in keys], "value": [outcome[key] for key in keys]})


def resource_list(names: list[str]) -> list[dict[str, Any]]:
    """Return the list of machines, which has no envelope."""
    return [
        {"sinanChipId": name, "machineType": int(_REAL_CHIP), "onlineFlag": True} for name in names
    ]


def chip_answer(calibration: Calibration, wire_id: str) -> dict[str, Any]:
    """Describe a chip; dead couplers have the fidelity 0, dead qubits are not available."""
    couplers: dict[str, list[dict[str, Any]]] = {}
    for (first, second), fidelity in sorted(calibration.couplers.items()):
        couplers.setdefault(str(first), []).append({"v": second, "w": fidelity})
    live = [q for q, quality in sorted(calibration.qubits.items()) if quality.gate_fidelity > 0]
    parameters = [
        {
            "qubitId": str(number),
            "Frequency": 0.0,
            "ReadoutFidelity": (quality.readout_0 + quality.readout_1) / 2,
            "SingleGateFidelity": quality.gate_fidelity,
            "T1": quality.t1_us,
            "T2": quality.t2_us,
        }
        for number, quality in sorted(calibration.qubits.items())
    ]
    return {
        "ChipID": wire_id,
        "QubitCount": calibration.n_qubits,
        "AvailableQubits": live,
        "HighFrequencyQubit": [],
        "QubitParams": parameters,
        "adjMatrix": couplers,
        "BasicQGate": ["U3", "CZ"],
        "CompensateAngle": {},
        "QGateClock": [
            {"gateType": "RPhi", "IntValue": round(calibration.gate_ns)},
            {"gateType": "CZ", "IntValue": round(calibration.cz_ns)},
        ],
    }
