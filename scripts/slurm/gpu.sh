#!/usr/bin/env bash
# Trains on the GPUs of several nodes, one rank a GPU. From the folder of the repository:
#   CONFIG=configs/gpt2-124m.json RUN=runs/a sbatch scripts/slurm/gpu.sh [options of sffn train]
# What your cluster wants otherwise goes before the script: sbatch --partition=NAME --nodes=4 scripts/slurm/gpu.sh
# Every rank sees all GPUs of its node and takes the one of its place among the node's ranks. Where Slurm shows each rank its
# own alone (--gpus-per-task=1), it takes that.
#SBATCH --job-name=sffn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --hint=nomultithread
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

SFFN=${SFFN:-build-cuda/tools/sffn}
BACKEND=cuda
source scripts/slurm/run.sh
