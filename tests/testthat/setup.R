# Checks may use two cores. torch reads this variable when it is loaded.
Sys.setenv(OMP_NUM_THREADS = Sys.getenv("OMP_NUM_THREADS", "2"))
# The tests compare numbers up to the rounding of a CPU, also on machines with a GPU.
Sys.setenv(CUDA_VISIBLE_DEVICES = "")
