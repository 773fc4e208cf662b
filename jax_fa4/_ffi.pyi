CONTRACT_VERSION: int

def registrations() -> dict[str, dict[str, dict[str, object]]]:
    """FFI handlers by platform, name of their target, and stage."""

def cpu_instruction_sets() -> str:
    """Instruction sets that the kernels have and this machine supports, the preferred one first."""

def register_variants(text: str) -> None:
    """Tells the launcher which kernels there are now: rows in the form of ffi/cuda/variants.cc."""
