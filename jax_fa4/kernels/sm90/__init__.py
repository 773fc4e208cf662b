"""The Hopper kernels, for sm_90a; forward.py is the file to read first."""
