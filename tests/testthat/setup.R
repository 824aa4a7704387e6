# Checks may use two cores; Python reads this when torch is loaded.
Sys.setenv(OMP_NUM_THREADS = Sys.getenv("OMP_NUM_THREADS", "2"))
