"""Searches are measured in one thread: imported before numpy, whose libraries ask how many they
may have when they are loaded. What builds with two threads says so itself."""

import os

for library in ["OMP", "OPENBLAS", "MKL"]:
    os.environ[f"{library}_NUM_THREADS"] = "1"
