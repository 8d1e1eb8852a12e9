"""A study file is read with all its mistakes at once, and its quick variant is a smaller study."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_study import LORA, QTHA, study_keys, write_study

from qpeft.chips.calibration import load_calibration
from qpeft.errors import RecipeError
from qpeft.study.reading import load_study
from qpeft.study.spec import StudySpec

STUDIES = Path(__file__).parents[2] / "studies"


def problems(folder: Path, **changes: Any) -> list[str]:
    path = write_study(folder, **changes)
    with pytest.raises(RecipeError) as caught:
        load_study(path)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_a_study_says_who_is_compared_with_whom(tmp_path: Path) -> None:
    none = {**QTHA, "name": "none", "core": "none", "control": True, "differs": {}}
    spec = load_study(write_study(tmp_path, arms=[LORA, QTHA, none, {**LORA, "name": "other"}]))
    roles = {arm.label: spec.role_of(arm) for arm in spec.arms}
    assert roles == {"lora": "reference", "qtha": "subject", "none": "control", "other": "rival"}
    others = {arm.label: spec.compared_with(arm) for arm in spec.arms}
    assert others == {"lora": "lora", "qtha": "lora", "none": "qtha", "other": "lora"}


def test_paths_are_the_files_and_the_output_folder_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = study_keys(tmp_path)
    del raw["output_dir"], raw["name"]
    raw["quick"] = {"seeds": [3]}
    path = tmp_path / "some.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    spec = load_study("../some.yaml")
    assert spec.name == "some"
    assert spec.output_dir == elsewhere / "runs" / "some"
    assert spec.model.name == str(tmp_path / "model")
    files = spec.tasks[0].data.files
    assert files is not None
    assert files.train == tmp_path / "sums.jsonl"
    assert load_study(path, is_quick=True).output_dir == elsewhere / "runs" / "some-quick"


def test_files_of_the_measures_are_taken_from_the_study_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "general.txt").write_text("some text", encoding="utf-8")
    load_calibration("wukong").save(tmp_path / "chip.json")
    files = {"forgetting_file": "texts/general.txt", "noise_calibration": "chip.json"}
    path = write_study(tmp_path, measures=files)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    measures = load_study(path).measures
    assert measures.forgetting_file == tmp_path / "texts" / "general.txt"
    assert measures.noise_calibration == str(tmp_path / "chip.json")
    # A packaged name stays one, also beside a file that is called like it.
    (tmp_path / "wukong").touch()
    named = load_study(write_study(tmp_path, measures={"noise_calibration": "wukong"})).measures
    assert named.noise_calibration == "wukong"
    assert named.forgetting_file is None


def test_files_of_the_measures_are_looked_for_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "general.txt").touch()
    found = problems(
        tmp_path,
        margin=True,
        measures={"forgetting_file": "genral.txt", "noise_calibration": "wukon"},
    )
    assert found[:2] == [
        f"measures.forgetting_file: no such file '{tmp_path}/genral.txt'. Did you mean 'general.txt'?",
        f"measures.noise_calibration: neither a packaged calibration nor a file '{tmp_path}/wukon'. "
        "Did you mean 'wukong'?",
    ]
    assert found[2].startswith("margin: expected a number")  # all mistakes at once
    (found_folder,) = problems(tmp_path, measures={"forgetting_file": "."})
    assert found_folder.startswith("measures.forgetting_file: no such file")


@pytest.mark.parametrize(("content", "reason"), [("{", "is not JSON"), ("{}", "needs the field")])
def test_a_calibration_that_is_none_is_refused_with_its_key(
    content: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "chip.json").write_text(content, encoding="utf-8")
    (found,) = problems(tmp_path, measures={"noise_calibration": "chip.json"})
    assert found.startswith("measures.noise_calibration: the file cannot be used. ")
    assert reason in found


def test_what_was_written_back_is_the_same_study(tmp_path: Path) -> None:
    spec = load_study(write_study(tmp_path, tuning={"learning_rates": [0.01]}))
    assert StudySpec.model_validate(yaml.safe_load(spec.to_yaml())) == spec


def test_quick_chooses_by_name_merges_the_rest_and_yields_to_set(tmp_path: Path) -> None:
    path = write_study(
        tmp_path,
        arms=[LORA, QTHA, {**LORA, "name": "third"}],
        data={"n_train": 20},
        quick={
            "seeds": [7],
            "arms": ["lora", "qtha"],
            "training": {"steps": 2},
            "data": {"n_train": 9},
        },
    )
    spec = load_study(path, ["training.batch_size=2", "training.steps=3"], is_quick=True)
    assert [arm.label for arm in spec.arms] == ["lora", "qtha"]
    assert spec.seeds == [7]
    assert (spec.training.steps, spec.training.batch_size) == (3, 2)
    assert spec.training.learning_rate == 0.01
    assert spec.tasks[0].data.n_train == 9
    assert load_study(path).tasks[0].data.n_train == 20


def test_arms_and_tasks_replace_keys_of_the_training(tmp_path: Path) -> None:
    raw = study_keys(tmp_path)
    task = {**raw["tasks"][0], "training": {"steps": 4}, "evaluation": {"max_new_tokens": 2}}
    other = {**LORA, "name": "other", "training": {"batch_size": 2}}
    spec = load_study(write_study(tmp_path, tasks=[task], arms=[LORA, QTHA, other]))
    training = spec.training_of(spec.tasks[0], spec.arm("other"))
    assert (training.steps, training.batch_size, training.evaluate_every) == (4, 2, 3)
    evaluation = spec.evaluation_of(spec.tasks[0])
    assert (evaluation.max_new_tokens, evaluation.batch_size) == (2, 10)
    assert not evaluation.base_model


def test_a_null_in_the_training_stays_a_null(tmp_path: Path) -> None:
    spec = load_study(write_study(tmp_path, training={"evaluate_every": None}))
    assert spec.training_of(spec.tasks[0], spec.arms[0]).evaluate_every is None


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        subject="qhta",
        seed=[0],
        margin=True,
        arms=[LORA, {**QTHA, "differs": {"paramters": "x"}}, {**QTHA, "training": {"stepps": 3}}],
        tasks=[],
    )
    assert "subject: no arm is called 'qhta'; there are: lora, qtha, qtha" in found
    assert any(line.startswith("seed: unknown key") for line in found)
    assert any(line.startswith("margin: expected a number") for line in found)
    assert any(line.startswith("arms.1.differs.paramters") for line in found)
    assert "arms.2.name: a second arm is called 'qtha'; give it another 'name'" in found
    assert any(line.startswith("arms.2.training.stepps: unknown key.") for line in found)
    assert "tasks: expected a list that is not empty, got []" in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "qtha"}, "reference: is the subject itself"),
        ({"seeds": [0, 0]}, "seeds: a seed stands here twice"),
        ({"arms": [LORA, {**QTHA, "control": True}]}, "arms.1.control: the subject and the ref"),
        (
            {"arms": [LORA, QTHA, {**LORA, "name": "trials"}]},
            "arms.2.name: 'trials' is used by the folder itself",
        ),
        (
            {"arms": [LORA, QTHA, {**LORA, "name": "x", "match_parameters": "qtha"}]},
            "arms.2.r: match_parameters chooses it; remove one of the two",
        ),
        (
            {"arms": [LORA, QTHA, {"name": "x", "method": "vera", "match_parameters": "y"}]},
            "arms.2.match_parameters: no other arm is called 'y'; there are: lora, qtha",
        ),
        (
            {
                "tuning": {"learning_rates": [0.1]},
                "arms": [LORA, QTHA, {**LORA, "name": "x", "training": {"learning_rate": 1.0}}],
            },
            "arms.2.training.learning_rate: the tuning chooses it for every arm",
        ),
        ({"tuning": {"learning_rates": [0.1, 0.1]}}, "tuning.learning_rates: a learning rate"),
        # Their trials would have the same folder.
        ({"tuning": {"learning_rates": [0.1, 0.1000000001]}}, "tuning.learning_rates: a learning"),
        (
            {"arms": [LORA, QTHA, {**LORA, "name": "x", "control": True}]},
            "arms.2.control: a control is the subject with its circuit exchanged, so its method is qtha",
        ),
        ({"arms": [LORA]}, "arms: expected a list of at least 2, got "),
        ({"arms": 3}, "arms: expected a list, got 3"),
        ({"tasks": 3, "data": {"n_train": 3}}, "tasks: expected a list, got 3"),
        ({"arms": [LORA, {**QTHA, "training": 3}]}, "arms.1.training: expected keys with values"),
        ({"name": "../up"}, "name: expected a name of letters, digits, "),
        (
            {"arms": [LORA, QTHA, {**LORA, "name": "a/b"}]},
            "arms.2.name: expected a name of letters",
        ),
        ({"training": {"early_stopping": 2}}, "training.early_stopping: the arms of a study"),
        ({"measures": {"noise_shots": [0]}}, "measures.noise_shots: "),
        ({"arms": [LORA, {**QTHA, "options": 5}]}, "arms.1.options: "),
        (
            {"arms": [LORA, QTHA, {**QTHA, "name": "x", "control": True, "core": "none", 5: 1}]},
            "arms.2.5: is 1, the subject's None; a control is",
        ),
        ({"measures": {"n_row": 3}}, "measures.n_row: unknown key. Did you mean 'n_rows'?"),
    ],
)
def test_a_mistake_is_named_with_its_key(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert any(line.startswith(message) for line in problems(tmp_path, **changes))


def test_tuning_without_validation_examples_is_refused(tmp_path: Path) -> None:
    task = study_keys(tmp_path)["tasks"][0]
    data = {key: value for key, value in task["data"].items() if key != "n_validation"}
    found = problems(tmp_path, tasks=[{**task, "data": data}], tuning={"learning_rates": [0.1]})
    assert found == [
        "tasks.0.data.n_validation: missing: the tuning is judged on validation examples"
    ]


def test_an_arm_without_a_name_is_called_as_its_method_in_small_letters(tmp_path: Path) -> None:
    arms = [{**LORA, "method": "LoRA", "name": None}, {**QTHA, "method": "QTHA", "name": None}]
    assert load_study(write_study(tmp_path, arms=arms)).subject == "qtha"
    assert problems(tmp_path, arms=arms, subject="QTHA") == [
        "subject: no arm is called 'QTHA'; there are: lora, qtha"
    ]
    (found,) = problems(tmp_path, arms=arms, margin=2)
    assert found.startswith("margin: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [("a/b", "tasks.0.name: expected a name"), ("samples", "tasks.0.name: 'samples' is used by")],
)
def test_a_task_whose_name_cannot_be_a_folders_is_refused(
    name: str, message: str, tmp_path: Path
) -> None:
    task = {**study_keys(tmp_path)["tasks"][0], "name": name}
    assert [line[: len(message)] for line in problems(tmp_path, tasks=[task])] == [message]


def test_a_file_without_a_name_lends_its_own_without_blanks(tmp_path: Path) -> None:
    path = write_study(tmp_path, name=None)
    keys = yaml.safe_load(path.read_text())
    del keys["name"]
    (tmp_path / "my study.yaml").write_text(yaml.safe_dump(keys))
    assert load_study(tmp_path / "my study.yaml").name == "my-study"


def test_an_empty_file_is_called_a_study(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(
        RecipeError, match=r"empty\.yaml: the study is empty; docs/study\.md has one"
    ):
        load_study(tmp_path / "empty.yaml")


def test_a_study_file_is_read_without_the_heavy_packages() -> None:
    code = "import sys; import qpeft.study.reading; print({'torch', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_quick_variant_names_only_what_there_is(tmp_path: Path) -> None:
    path = write_study(tmp_path, quick={"arms": ["lora", "qhta", "qtha"]})
    with pytest.raises(RecipeError, match="none of the arms is called 'qhta'") as caught:
        load_study(path, is_quick=True)
    assert len(caught.value.problems) == 1
    for quick in ({"arms": 3}, {"tasks": [{"name": "x"}]}):
        with pytest.raises(RecipeError, match=r"tiny\.yaml: quick\.(arms|tasks): "):
            load_study(write_study(tmp_path, quick=quick), is_quick=True)
    with pytest.raises(RecipeError, match="quick: is not there; it holds the keys"):
        load_study(write_study(tmp_path), is_quick=True)
    with pytest.raises(RecipeError, match="quick: expected the keys that --quick replaces, got 3"):
        load_study(write_study(tmp_path, quick=3), is_quick=True)


def test_a_missing_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    write_study(tmp_path)
    with pytest.raises(RecipeError, match=r"no such study file\. Did you mean 'tiny\.yaml'"):
        load_study(tmp_path / "tini.yaml")


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("is_quick", [False, True])
def test_the_studies_that_come_along_can_be_read(file: Path, is_quick: bool) -> None:
    spec = load_study(file, is_quick=is_quick)
    assert spec.subject in [arm.label for arm in spec.arms]
    assert (len(spec.seeds) >= 3) != is_quick
    assert all(task.data.n_test is not None for task in spec.tasks)


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_control_differs_from_the_subject_in_its_core_alone(
    is_nested: bool, tmp_path: Path
) -> None:
    def control(**more: Any) -> dict[str, Any]:
        own = {"differs": more.pop("differs", {}), "name": "none", "control": True}
        if not is_nested:
            return {**QTHA, "core": "none", **own, **more}
        options = {k: v for k, v in QTHA.items() if k not in ("name", "method", "differs")}
        return {"method": "qtha", "options": {**options, "core": "none", **more}, **own}

    def told(arm: dict[str, Any]) -> list[str]:
        try:
            load_study(write_study(tmp_path, arms=[LORA, QTHA, arm]))
        except RecipeError as error:
            return error.problems
        return []

    why = {"options": "a reason"}
    assert told(control()) == []
    assert told(control(backend="noisy", shots=100)) == []
    (problem,) = told(control(alpha=3))
    assert "alpha: is 3, the subject's None; a control is the subject with another core" in problem
    assert told(control(alpha=3, differs=why)) == []
    (problem,) = told(control(differs=why))
    assert "the control has the subject's options" in problem
