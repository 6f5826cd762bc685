#!/usr/bin/env bash
# Trains on the CPUs of several nodes, one rank for each set of cores. From the folder of the repository:
#   CONFIG=configs/gpt2-124m.json RUN=runs/a sbatch scripts/slurm/cpu.sh [options of sffn train]
# What your cluster wants otherwise goes before the script: sbatch --partition=NAME --cpus-per-task=32 scripts/slurm/cpu.sh
# A rank for each socket or NUMA node is a start: ntasks-per-node × cpus-per-task = the cores of a node.
#SBATCH --job-name=sffn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --hint=nomultithread
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

SFFN=${SFFN:-build-cpu/tools/sffn}
BACKEND=cpu
source scripts/slurm/run.sh
