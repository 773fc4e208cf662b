"""The GPU kernels, in CuTe DSL: compiled when the library is built, never imported when it is used."""
