# What the batch scripts beside it share: they source it with the options of sffn train. It starts the ranks, lets them save
# before the time is up, and puts the job back into the queue until the run is done.
#   CONFIG, RUN   the configuration and the folder of the run, which all nodes must see
#   LAUNCH        pmix (srun, where `srun --mpi=list` has it), pmi2 (srun, for an Open MPI 4 built with Slurm's PMI-2),
#                 or mpirun (inside the allocation, which needs nothing of Slurm's PMI)
# shellcheck shell=bash disable=SC2153
set -euo pipefail

refuse() { printf 'error: %s\n' "$*" >&2; exit 2; }
[ -n "${CONFIG:-}" ] || refuse "CONFIG is not set: CONFIG=FILE RUN=FOLDER sbatch scripts/slurm/gpu.sh or cpu.sh"
[ -n "${RUN:-}" ] || refuse "RUN is not set: CONFIG=FILE RUN=FOLDER sbatch scripts/slurm/gpu.sh or cpu.sh"
[ -f "$CONFIG" ] || refuse "CONFIG: there is no file $CONFIG"
[ -x "$SFFN" ] || refuse "SFFN: $SFFN is no program; build it, or name another"
[ -n "${SLURM_JOB_ID:-}" ] || refuse "this is no job of Slurm: start it with sbatch"

cores=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=$cores

# Ranks node by node, so that neighbours in rank order, which share blocks, are on one node; each bound to its own cores.
case ${LAUNCH:=pmix} in
  pmix | pmi2)
    launch=(srun "--mpi=$LAUNCH" --distribution=block "--cpus-per-task=$cores" --cpu-bind=cores --kill-on-bad-exit=1)
    ;;
  mpirun)
    launch=(mpirun -np "$SLURM_NTASKS" --map-by "ppr:$SLURM_NTASKS_PER_NODE:node:PE=$cores" --bind-to core)
    for name in $(compgen -e | grep -E '^(OMP_NUM_THREADS$|NCCL_|UCX_)'); do launch+=(-x "$name"); done
    ;;
  *) refuse "LAUNCH: $LAUNCH is not known; known: pmix, pmi2, mpirun" ;;
esac

# USR1 comes before the time limit (--signal), TERM with a preemption. Both srun and mpirun hand USR1 on to the ranks, which
# finish the step, save and exit with 0.
stopped=false
trap 'stopped=true again=true; kill -USR1 "$ranks" 2>/dev/null || true' USR1 TERM
"${launch[@]}" "$SFFN" train "$CONFIG" --run "$RUN" --resume auto --backend "$BACKEND" "$@" &
ranks=$! again=true code=0
while $again; do  # a signal ends `wait`, not the ranks
  again=false code=0
  wait "$ranks" || code=$?
done
if $stopped && [ "$code" -eq 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
