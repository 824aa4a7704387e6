# Checks may use two cores; Python reads this when torch is loaded.
Sys.setenv(OMP_NUM_THREADS = Sys.getenv("OMP_NUM_THREADS", "2"))
# Numbers are held to the rounding of the processor, on machines with a GPU too.
Sys.setenv(CUDA_VISIBLE_DEVICES = "")
