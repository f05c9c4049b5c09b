"""The evaluator's host half: workers that hang or die are answered for, fresh ones come on request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xar_agent.errors import EvaluationError, Interrupted, SandboxLost
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.evaluation import Measurement, Split, evaluate
from xar_agent.jobs.relay import Patience
from xar_agent.jobs.types import FailureClass

Edit = Callable[..., str]
LOAD = '    return NgramModel(json.loads(Path(path).read_text(encoding="utf-8")))'
HASTY = Patience(start_s=3, call_s=3, send_s=3)

EVALUATOR = """
import json, os, sys
request = json.loads(sys.argv[1])
def ask(header, payload=b""):
    sys.stdout.buffer.write(json.dumps({**header, "nbytes": len(payload)}).encode() + b"\\n" + payload)
    sys.stdout.buffer.flush()
    reply = json.loads(sys.stdin.buffer.readline())
    return reply, sys.stdin.buffer.read(reply["nbytes"])
def finish(metric, **metrics):
    checks = [{"name": "shape", "passed": True}]
    print(json.dumps({"op": "result", "nbytes": 0, "metric": metric, "metrics": metrics, "checks": checks}))
"""


@pytest.fixture
def measure(bench: Bench, tmp_path: Path) -> Callable[..., Measurement]:
    """``measure(tree, ...)`` -> what the evaluator says of an empty checkpoint."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "checkpoint.json").write_text("{}")

    def run(
        tree: str | None = None,
        *,
        split: Split = "smoke",
        patience: Patience = HASTY,
        cancel: threading.Event | None = None,
    ) -> Measurement:
        with bench.scratch_folder("test") as folder:
            tree = tree or bench.base_tree
            return evaluate(bench, tree, checkpoint, folder / "e", split=split, patience=patience, cancel=cancel)

    return run


Measure = Callable[..., Measurement]


@pytest.mark.parametrize("backend", ["process"], indirect=True)
@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("    import time; time.sleep(100)", "TIMEOUT", "did not answer in time"),
        ("    return lambda idx: __import__('time').sleep(100)", "TIMEOUT", "did not answer in time"),
        ("    return lambda idx: __import__('os')._exit(3)", "CONTRACT", "has ended"),
        ("    raise SystemExit(3)", "CONTRACT", "SystemExit"),
        ("    raise Exception('\\ud800')", "CONTRACT", "Exception: ?"),
    ],
)
def test_a_worker_that_hangs_or_dies_is_an_invalid_result(
    measure: Measure, edit: Edit, body: str, kind: str, said: str
) -> None:
    begun = time.monotonic()
    found = measure(edit({"model.py": (LOAD, body)}))
    assert not found.valid
    assert found.failure is not None
    assert (found.failure.kind, said in found.failure.reason) == (kind, True), found.failure
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_model_that_is_too_slow_for_the_whole_evaluation_is_to_blame(measure: Measure, edit: Edit) -> None:
    slow = f"    import time; model = {LOAD.strip().removeprefix('return ')}\n"
    slow += "    return lambda idx: time.sleep(0.5) or model(idx)"
    found = measure(edit({"model.py": (LOAD, slow)}), patience=Patience(total_s=3))
    assert found.failure is not None
    assert found.failure.kind is FailureClass.TIMEOUT
    assert "time" in found.failure.reason


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_worker_that_computes_too_much_is_ended_and_its_cpu_time_told(measure: Measure, edit: Edit) -> None:
    found = measure(edit({"model.py": (LOAD, "    while True: pass")}), patience=Patience(cpu_s=1.5))
    assert found.failure is not None
    assert (found.failure.kind, "CPU" in found.failure.reason) == (FailureClass.TIMEOUT, True), found.failure
    assert 1 < found.worker_cpu_s < 10


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_worker_that_takes_too_much_memory_is_oom(measure: Measure, edit: Edit) -> None:
    eat = "    x = []\n    while True: x.append(b'1' * 10**8)"
    found = measure(edit({"model.py": (LOAD, eat)}), patience=Patience())
    assert found.failure is not None
    assert found.failure.kind is FailureClass.OOM, found.failure


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_worker_whose_sandbox_is_gone_is_nobodys_fault(measure: Measure, edit: Edit) -> None:
    # Without isolation a program can end its supervisor: what the kernel or an administrator may do anywhere.
    with pytest.raises(SandboxLost):
        measure(edit({"model.py": (LOAD, "    import os; os.kill(os.getppid(), 9); import time; time.sleep(9)")}))


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_a_cancellation_ends_an_evaluation(measure: Measure, edit: Edit) -> None:
    cancel = threading.Event()
    threading.Timer(1.0, cancel.set).start()
    with pytest.raises(Interrupted):
        measure(edit({"model.py": (LOAD, "    import time; time.sleep(100)")}), cancel=cancel)


@pytest.mark.parametrize("split", ["val", "hidden", "smoke"])
def test_each_split_is_shown_alone_and_training_text_stands_for_smoke(
    measure: Measure, bench: Bench, split: Split
) -> None:
    look = (
        EVALUATOR
        + "print('[]', file=sys.stderr)\nfinish(1.0, size=os.stat(os.environ['XAR_VAL'] + '/meta.json').st_size)"
    )
    look += "\n" if bench.backend == "process" else "\nassert not os.path.exists('/workspace/train.py')\n"
    (bench.env.folder / "evaluator.py").write_text(look)
    found = measure(split=split)
    assert found.valid
    assert found.metrics["size"] == (bench.data.split(split) / "meta.json").stat().st_size
    names = {name: (bench.data.split(name) / "val.bin").exists() for name in ("val", "hidden", "smoke")}
    assert names == {"val": True, "hidden": False, "smoke": False}


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_every_worker_is_a_new_process_over_a_clean_checkout(measure: Measure, bench: Bench, edit: Edit) -> None:
    program = EVALUATOR + (
        "for name in 'abc':\n"
        "    reply, _ = ask({'op': 'worker', 'id': name})\n"
        "    assert reply['op'] == 'ready', reply\n"
        "assert ask({'op': 'stop', 'id': 'a'})[0]['op'] == 'ok'\n"
        "assert ask({'op': 'call', 'id': 'a', 'max_reply': 9, 'head': {}})[0]['op'] == 'error'\n"
        "finish(2.5)\n"
    )
    (bench.env.folder / "evaluator.py").write_text(program)
    litter = f"    import os; assert not os.path.exists('litter'); open('litter', 'w').close()\n{LOAD}"
    assert measure(edit({"model.py": (LOAD, litter)})).value == 2.5


@pytest.mark.bwrap
@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
def test_a_worker_cannot_write_and_sees_no_validation_text(measure: Measure, bench: Bench, edit: Edit) -> None:
    look = (
        "    import os\n"
        "    try: open('litter', 'w').close(); raise RuntimeError('writable')\n"
        "    except OSError: pass\n"
        f"    seen = [path for path in ('/xar/validation', {str(bench.data.folder)!r}) if os.path.exists(path)]\n"
        "    if seen: raise RuntimeError(f'sees {seen}')\n"
        f"{LOAD}"
    )
    assert measure(edit({"model.py": (LOAD, look)})).valid


@pytest.mark.parametrize("backend", ["process"], indirect=True)
@pytest.mark.parametrize(
    "ending",
    [
        "finish(float('nan'), x=1)",
        "finish('low')",
        "print(json.dumps({'op': 'result', 'nbytes': 0, 'metric': 1, 'metrics': {}, 'checks': []}))",
        "ask({'op': 'call', 'id': 'x'}); ask({'op': 'dance'})",
        "[ask({'op': 'worker', 'id': str(i)}) for i in range(9)]",
        "raise KeyError('broken')",
    ],
)
def test_an_evaluator_out_of_order_is_an_error_of_the_house_or_no_value(
    measure: Measure, bench: Bench, ending: str
) -> None:
    (bench.env.folder / "evaluator.py").write_text(EVALUATOR + ending)
    if "nan" in ending:
        found = measure()
        assert (found.value, found.valid) == (None, False)
        return
    with pytest.raises(EvaluationError):
        measure()


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_the_audit_seed_is_new_each_time_and_recorded(measure: Measure, bench: Bench) -> None:
    (bench.env.folder / "evaluator.py").write_text(EVALUATOR + "finish(1.0, seed=request['seed'])")
    found = [measure() for _ in range(2)]
    assert [f.metrics["seed"] for f in found] == [f.audit_seed for f in found]
    assert found[0].audit_seed != found[1].audit_seed
    assert json.dumps(found[0].metrics)


@pytest.mark.parametrize("backend", ["process"], indirect=True)
def test_the_time_that_the_host_waits_for_a_worker_is_counted(measure: Measure, edit: Edit) -> None:
    slow = edit({"model.py": (LOAD, f"    import time; time.sleep(1.5)\n{LOAD}")})
    assert measure(slow).worker_wall_s >= 1.5
