"""What the launchers share: block sizes, and which GPU they are for."""

import triton


def power_of_2(n: int, low: int = 1, high: int = 1 << 30) -> int:
    """The smallest power of two >= n, kept within low..high."""
    return max(low, min(high, 1 << max(0, n - 1).bit_length()))


def on_hopper() -> bool:
    """Whether Triton builds for an sm_90, with its asynchronous tensor cores."""
    if triton.knobs.runtime.interpret:
        return False
    arch = triton.runtime.driver.active.get_current_target().arch
    return isinstance(arch, int) and 90 <= arch < 100
