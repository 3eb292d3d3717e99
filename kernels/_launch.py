"""What the launchers share: block sizes."""


def power_of_2(n: int, low: int = 1, high: int = 1 << 30) -> int:
    """The smallest power of two >= n, kept within low..high."""
    return max(low, min(high, 1 << max(0, n - 1).bit_length()))
