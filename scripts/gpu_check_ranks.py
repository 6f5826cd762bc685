"""The slot of scripts/gpu_check.py for two ranks of one card."""
import json
import os
import shutil
import struct
import tempfile
import time

from gpu_check_run import ROOT, Late, run

# Two ranks of one card (docs/clusters.md), by transports that a container without a network has. The tolerances are those
# of ranks on CPUs (tests/runs/expert_parallel_test.cpp).
RANK_CONFIGS = [("dense", ["zero=1"]),
                ("avg_k", ["expert=2", "dispatch=gather", "expert_chunk=96"]),
                ("sigma_moe", ["expert=2", "dispatch=all_to_all", "expert_chunk=96"])]
RANK_TOLERANCES = {"loss": 1e-5, "grad_norm": 1e-4}
RANK_STEPS = 6
RANK_SECONDS = 15  # of a training or a benchmark
ON_ONE_CARD = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_DEBUG": "WARN", "NCCL_DEBUG_FILE": "/dev/stderr",
               "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "^tcp,openib", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
               "OMPI_MCA_mpi_yield_when_idle": "1",
               "OMPI_MCA_plm_rsh_agent": "sh"}  # Open MPI 4 looks for ssh, which one machine does not need


def on_ranks(run_, count, *arguments):
    """stdout of sffn on one rank or two; a RuntimeError has the last lines that it printed."""
    if run_.at_the_end(5):
        raise Late("")
    seconds, begin = max(1, int(min(RANK_SECONDS, run_.left() - 4))), time.monotonic()
    launcher = [] if count == 1 else ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--timeout",
                                      str(seconds), "-np", str(count), "sh", "-c",
                                      'NCCL_HOSTID=$OMPI_COMM_WORLD_RANK exec "$@"', "sh"]
    # The executor's NCCL joins threads of a process, not processes.
    command = [*launcher, run_.sffn, *arguments, "--backend", "cpu" if run_.small else "cuda"]
    with tempfile.TemporaryFile("w+", dir=run_.out) as log:
        try:
            code, printed = run(command, seconds + 3 * (count - 1), log, ON_ONE_CARD)  # mpirun ends its ranks itself
        except Late as late:
            code, printed = "none within the limit", late.printed or ""
        log.seek(0)
        errors = log.read()
    run_.log.write(errors + printed)
    if code != 0 and time.monotonic() - begin >= seconds - 1 and run_.at_the_end(5):
        raise Late(printed)  # the whole time ended, which is nobody's fault
    if code != 0:
        raise RuntimeError("\n".join([f"exit code {code}", *printed.splitlines()[-3:], *errors.splitlines()[-15:]]))
    return printed


def train_on(run_, folder, count, config, parallel):
    """The records of the steps in metrics.jsonl."""
    where = os.path.join(folder, f"{config}-{count}")
    settings = ["train.precision=fp32", "optimizer.schedule.warmup_steps=2", "log.every=1", "log.tensorboard=false",
                "data.train=" + json.dumps([{"path": os.path.join(folder, "tokens.bin")}])]
    if count > 1:
        settings += ["parallel." + setting for setting in parallel]
    on_ranks(run_, count, "train", os.path.join(ROOT, "configs", "tiny", config + ".json"), "--run", where, "--steps",
             str(RANK_STEPS), *(word for setting in settings for word in ("--set", setting)))
    with open(os.path.join(where, "metrics.jsonl")) as file:
        return [record for record in map(json.loads, file) if "loss" in record]


def hold_against(two, one):
    """The worst relative errors over the steps, and whether all are small enough."""
    if len(one) != RANK_STEPS or len(two) != RANK_STEPS:
        raise RuntimeError(f"{len(one)} and {len(two)} steps, not {RANK_STEPS}")
    errors = {key: max(abs(b[key] - a[key]) / abs(a[key]) for a, b in zip(one, two)) for key in RANK_TOLERANCES}
    return {"agree": all(errors[key] <= most for key, most in RANK_TOLERANCES.items()), **errors}


def write_tokens(path, count=1 << 14):
    """A token file of bytes that repeat with some noise, so that there is something to learn."""
    ids = [(i % 61 + (i * i // 7) % 5) % 257 for i in range(count)]
    with open(path, "wb") as file:
        file.write(struct.pack("<3I", 20240520, 1, count).ljust(1024, b"\0") + struct.pack(f"<{count}H", *ids))


def ranks(run_):
    if not shutil.which("mpirun"):
        return {"good": None, "summary": ["mpirun is not on this machine"]}
    with tempfile.TemporaryDirectory(dir=run_.out) as folder:
        write_tokens(os.path.join(folder, "tokens.bin"))

        def train_both(job):
            config, parallel = job
            row = {"name": config, "parallel": parallel}
            try:
                one, two = (train_on(run_, folder, count, config, parallel) for count in (1, 2))
                return {**row, **hold_against(two, one)}
            except RuntimeError as error:
                return {**row, "agree": False, "error": str(error)}

        rows = list(map(train_both, RANK_CONFIGS))  # one by one: processes of one card take turns
    try:
        links = json.loads(on_ranks(run_, 2, "bench", "comm", "--json", "--repeats", "3" if run_.small else "9"))
    except Late:
        links = {"error": "cut off: the time was over"}
    except (RuntimeError, ValueError) as error:
        links = {"error": str(error)}
    return {"good": all(row["agree"] for row in rows), "rows": rows, "links": links}
