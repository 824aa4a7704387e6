"""Devices, memory, threads, precision and random generators: how the host and the GPU are used."""
