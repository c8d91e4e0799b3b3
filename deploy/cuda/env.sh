# Sourced by the scripts beside it, in the root of the repository: with what to compile for GPUs.
CUDA_HOME=$(python3 deploy/cuda/toolkit.py)
export CUDA_HOME CUDA_PATH="$CUDA_HOME" CUDA_ROOT="$CUDA_HOME" CUDA_TOOLKIT_ROOT_DIR="$CUDA_HOME" PATH="$CUDA_HOME/bin:$PATH"
# The oldest cards that are to run it: 80 is Ampere (A100; A10 and L4 are newer). Newer ones run it too.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
