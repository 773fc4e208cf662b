CONTRACT_VERSION: int

def registrations() -> dict[str, object]:
    """FFI handlers of platform "cpu" by the name of their target."""

def cpu_instruction_sets() -> str:
    """Instruction sets that the kernels have and this machine supports, the preferred one first."""
