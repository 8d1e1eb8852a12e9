"""Origin's unmodified client against the service in another process."""

import json
import signal

import pytest

from qpeft.chips.calibration import load_calibration
from service.running import KEYS, result_of, running_service, start_service, wait_until

qcloud = pytest.importorskip("pyqpanda3.qcloud")
core = pytest.importorskip("pyqpanda3.core")
pytest.importorskip("uvicorn")

PI = 3.141592653589793


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("cloud"), has_drift=False) as running:
        yield running


@pytest.fixture
def chip(service):
    return chip_of(service)


def chip_of(service, user="ada", name="origin_wukong"):
    return qcloud.QCloudService(KEYS[user], service.url).backend(name)


def flips(*qubits, n_bits=3, first=0):
    """A program that reads n_bits qubits of a row, some of them flipped."""
    program = core.QProg()
    for qubit in qubits:
        program << core.U3(first + qubit, PI, 0.0, PI)
    for bit in range(n_bits):
        program << core.measure(first + bit, bit)
    return program


def options(**changes):
    plain = {"amend_flag": 0, "mapping": False, "optimization": False}
    return qcloud.QCloudOptions(**{**plain, **changes})


def most_frequent(counts):
    return max(counts, key=counts.get)


def test_the_chip_is_listed_and_online(service):
    names = qcloud.QCloudService(KEYS["ada"], service.url).backends()
    assert names["origin_wukong"] is True


def test_a_batch_comes_back_in_its_order_with_the_rightmost_bit_as_bit_0(chip):
    result = result_of(chip.run([flips(0), flips(1), flips(1, 2)], 500, options()))
    counts = result.get_counts_list()
    assert [most_frequent(each) for each in counts] == ["001", "010", "110"]
    assert [sum(each.values()) for each in counts] == [500, 500, 500]
    assert result.get_probs_list()[0]["001"] == pytest.approx(counts[0]["001"] / 500)


def test_a_job_is_found_again_by_its_id_alone(service, chip):
    job_id = chip.run([flips(0)], 100, options()).job_id()
    qcloud.QCloudService(KEYS["ada"], service.url)
    assert result_of(qcloud.QCloudJob(job_id)).job_status() == qcloud.JobStatus.FINISHED


def test_chip_information_is_the_calibration(chip):
    calibration = load_calibration("wukong")
    info = chip.chip_info()
    assert info.qubits_num() == 72
    assert sorted(info.available_qubits()) == sorted(calibration.qubits)
    told = {int(q.get_qubit_id()): q for q in info.single_qubit_info()}
    for number, quality in calibration.qubits.items():
        assert told[number].get_t1() == pytest.approx(quality.t1_us)
        assert told[number].get_t2() == pytest.approx(quality.t2_us)
        assert told[number].get_single_gate_fidelity() == pytest.approx(quality.gate_fidelity)
        mean = (quality.readout_0 + quality.readout_1) / 2
        assert told[number].get_readout_fidelity() == pytest.approx(mean)
    pairs = {tuple(sorted(p.get_qubits())): p.get_fidelity() for p in info.double_qubits_info()}
    assert pairs == pytest.approx(dict(calibration.couplers))
    assert (info.get_single_gate_timing(), info.get_double_gate_timing()) == (30, 40)


def test_proposed_blocks_are_disjoint_and_connected(service, chip):
    blocks = chip.best_qubit_blocks(4, 1, 5).qubit_blocks
    assert len(blocks) == 5
    assert len({qubit for block in blocks for qubit in block}) == 20
    live = load_calibration("wukong").alive_couplers
    for block in blocks:
        reached = {block[0]}
        for _ in block:
            reached |= {
                b for pair in live for a, b in (pair, pair[::-1]) if a in reached and b in block
            }
        assert reached == set(block)


def test_amendment_brings_probabilities_nearer_to_the_truth(chip):
    amended = result_of(chip.run([flips(1)], 4000, options(amend_flag=1))).get_probs_list()[0]
    plain = result_of(chip.run([flips(1)], 4000, options())).get_probs_list()[0]
    assert plain["010"] < 0.86
    assert amended["010"] > 0.95
    assert sum(amended.values()) == pytest.approx(1)


def test_amendment_does_not_join_qubits_that_never_met(chip):
    program = core.QProg()
    program << core.H(0) << core.H(5) << core.measure(0, 0) << core.measure(5, 1)
    result = result_of(chip.run([program], 4000, options(amend_flag=1)))
    assert result.get_probs_list()[0] == pytest.approx(
        dict.fromkeys(("00", "01", "10", "11"), 0.25), abs=0.05
    )


def test_counts_are_left_out_on_request(chip):
    result = result_of(chip.run([flips(1)], 100, options(is_prob_counts=False)))
    assert result.get_counts_list() == []
    assert sum(result.get_probs_list()[0].values()) == pytest.approx(1)


def triangle():
    program = core.QProg()
    program << core.U3(0, PI, 0.0, PI) << core.CNOT(0, 1) << core.CNOT(1, 2) << core.CNOT(2, 0)
    for qubit in range(3):
        program << core.measure(qubit, qubit)
    return program


def test_a_program_that_does_not_fit_is_mapped(chip):
    counts = result_of(chip.run([triangle()], 1000, options(mapping=True))).get_counts_list()[0]
    assert most_frequent(counts) == "110"  # 001, then 011, 111 and 110


def test_a_program_that_does_not_fit_is_refused_without_mapping(chip):
    with pytest.raises(RuntimeError, match=r"Program 0, gate \d+ \(CZ\).*no working coupler"):
        chip.run([triangle()], 1000, options())


def test_a_specified_block_is_kept_to(chip):
    inside = result_of(chip.run([flips(0, first=30)], 100, options(specified_block=[30, 31, 32])))
    assert inside.job_status() == qcloud.JobStatus.FINISHED
    with pytest.raises(RuntimeError, match="Program 0"):
        chip.run([flips(0, first=30)], 100, options(specified_block=[1, 2, 3]))


def test_merged_gates_have_less_noise(chip):
    program = core.QProg()
    for _ in range(200):
        program << core.U3(5, PI, 0.0, PI)
    program << core.measure(5, 0)
    merged = result_of(chip.run([program], 4000, options(optimization=True))).get_counts_list()[0]
    as_sent = result_of(chip.run([program], 4000, options())).get_counts_list()[0]
    assert merged["0"] > as_sent["0"] + 250  # 200 pulses less


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (lambda chip: chip.run([flips(0)] * 201, 10, options()), "1 to 200 programs; got 201"),
        (lambda chip: chip.run([], 10, options()), "1 to 200 programs; got 0"),
        (lambda chip: chip.run([flips(0)], 0, options()), "'shot' must be from 1 to"),
        (lambda chip: chip.run([flips(0)], 10**6, options()), "'shot' must be from 1 to"),
        (lambda chip: chip.run([core.QProg() << core.H(0)], 9, options()), "measures no qubit"),
        (lambda chip: chip.run([flips(0, first=80)], 9, options()), r"uses qubit q\[82\]"),
        (lambda chip: chip.run([flips(0)], 9, options(), True), "reads OriginIR only"),
        (lambda chip: chip.run_quantum_state_tomography(flips(0), 9), "no tomography"),
    ],
)
def test_the_client_shows_why_a_submission_is_refused(chip, send, words):
    with pytest.raises(RuntimeError, match=words):
        send(chip)


def test_an_unknown_chip_is_refused_with_the_names_that_there_are(service):
    with pytest.raises(RuntimeError, match="There are: origin_wukong"):
        chip_of(service, name="WK_C180").run([flips(0)], 10, options())


def test_a_block_that_cannot_be_simulated_fails_with_its_reason(chip):
    live = load_calibration("wukong").alive_couplers
    rows = [
        [(q, q + 1) for q in range(12 * row + shift, 12 * row + shift + 8)]
        for row in range(6)
        for shift in range(4)
    ]
    chain = next(pairs for pairs in rows if all(pair in live for pair in pairs))
    program = core.QProg()
    for pair in chain:
        program << core.CZ(*pair)
    program << core.measure(chain[0][0], 0)
    result = result_of(chip.run([program], 10, options()))
    assert result.job_status() == qcloud.JobStatus.FAILED
    assert "at most 8 qubits" in result.error_message()


def test_a_wrong_key_is_refused(service):
    with pytest.raises(RuntimeError, match=r"401.*not known here"):
        qcloud.QCloudService("nobodys-key", service.url).backends()
    with pytest.raises(RuntimeError, match="401"):
        qcloud.QCloudService("nobodys-key", service.url).backend("72").run([flips(0)], 9)


def test_users_see_only_their_own_jobs(service, chip):
    job_id = chip.run([flips(0)], 100, options()).job_id()
    qcloud.QCloudService(KEYS["bob"], service.url)
    result = qcloud.QCloudJob(job_id).query()
    assert "no task" in result.error_message()
    assert result.get_counts_list() == []
    assert qcloud.QCloudJob(job_id).cancel() is False
    qcloud.QCloudService(KEYS["ada"], service.url)
    assert result_of(qcloud.QCloudJob(job_id)).job_status() == qcloud.JobStatus.FINISHED


def test_a_waiting_job_is_cancelled_and_a_finished_one_is_not(tmp_path, chip):
    finished = chip.run([flips(0)], 100, options())
    result_of(finished)
    assert finished.cancel() is False
    with running_service(tmp_path, queue_delay=3600) as slow:
        job = chip_of(slow).run([flips(0)], 100, options())
        assert job.status() == qcloud.JobStatus.WAITING
        assert job.cancel() is True
        assert "cancelled" in job.query().error_message()


def test_limits_of_a_user_hold(tmp_path):
    limits = {"max_open_tasks": 2, "max_shots_a_day": 1000}
    with running_service(tmp_path, queue_delay=3600, limits=limits) as slow:
        chip = chip_of(slow)
        with pytest.raises(RuntimeError, match="has 1200 shots; you have used 0 of 1000"):
            chip.run([flips(0)] * 2, 600, options())
        jobs = [chip.run([flips(0)], 100, options()) for _ in range(2)]
        with pytest.raises(RuntimeError, match="2 open tasks"):
            chip.run([flips(0)], 100, options())
        assert chip_of(slow, "bob").run([flips(0)], 100, options()).job_id()
        assert jobs[0].cancel()
        assert chip.run([flips(0)], 100, options()).job_id()


def test_a_service_that_is_killed_loses_no_job_and_repeats_its_numbers(tmp_path):
    programs = [flips(0), flips(1)]
    first = start_service(tmp_path, has_drift=False)
    done = chip_of(first).run(programs, 700, options())
    counts = result_of(done).get_counts_list()
    waiting = [chip_of(first).run(programs * 40, 700, options()).job_id() for _ in range(4)]
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    with running_service(tmp_path, has_drift=False, port=first.port) as second:
        qcloud.QCloudService(KEYS["ada"], second.url)
        assert qcloud.QCloudJob(done.job_id()).query().get_counts_list() == counts
        results = [result_of(qcloud.QCloudJob(job_id)) for job_id in waiting]
        assert [len(r.get_counts_list()) for r in results] == [80] * 4
        # All five have the same programs; their outcomes depend on their number in the queue alone.
        assert results[0].get_counts_list() != results[1].get_counts_list()
    first.process.stdout.close()


def test_the_audit_has_each_step_of_each_job_and_no_key_is_on_disk(tmp_path):
    with running_service(tmp_path) as service:
        job_id = chip_of(service).run([flips(0), flips(1)], 50, options()).job_id()
        result_of(qcloud.QCloudJob(job_id))
        wait_until(lambda: len(service.audit()) == 2)
        lines = service.audit()
        assert service.stop(signal.SIGTERM) == 0
    assert [line["state"] for line in lines] == ["queued", "finished"]
    for line in lines:
        assert (line["user"], line["task_id"]) == ("ada", job_id)
        assert (line["programs"], line["shots"]) == (2, 50)
    for path in tmp_path.rglob("*"):
        content = path.read_bytes()
        assert not [key for key in KEYS.values() if key.encode() in content], path


def test_it_ends_in_good_order_at_ctrl_c(tmp_path):
    with running_service(tmp_path) as service:
        chip_of(service).run([flips(0)], 50, options())
        assert service.stop(signal.SIGINT) == 0


@pytest.mark.slow
def test_polling_is_answered_while_a_full_batch_is_computed(tmp_path):
    program = core.QProg()
    for qubit in range(72):
        program << core.U3(qubit, 1.0 + qubit, 0.3, -0.2)
    for qubit in range(72):
        program << core.measure(qubit, qubit)
    with running_service(tmp_path) as service:
        job = chip_of(service).run([program] * 200, 1000, qcloud.QCloudOptions())
        seen = set()
        wait_until(lambda: seen.add(job.status()) or qcloud.JobStatus.FINISHED in seen, 300)
        assert qcloud.JobStatus.COMPUTING in seen
        answer = json.loads(job.query().origin_data())["obj"]
        assert answer["measureQubitSize"] == [72] * 200
