"""Keep memory that tensors leave behind, instead of giving it back and asking for it again."""

import ctypes

# Names and meanings of mallopt(3) in glibc.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
LARGEST_BLOCK = 32 * 2**20  # bytes; the most that glibc accepts


def keep_memory() -> bool:
    """Tell the C library to reuse the memory of tensors; whether it could be told.

    By default glibc returns every block above 128 kB to the kernel, which clears it page by page
    when it is asked for again: in small models that takes up to a third of a training step. It
    holds for the whole process, so this is for commands and not for libraries.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
        options = ((MMAP_THRESHOLD, LARGEST_BLOCK), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 2**26))
        return all([bool(set_option(name, value)) for name, value in options])
    except (AttributeError, OSError, TypeError):  # another C library
        return False
