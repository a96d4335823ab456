"""A process without a network: what a file from elsewhere may do, it cannot tell anyone.

Linux only, and only where the kernel lets a user do it; a container may forbid it. It is a second
line behind the refusals: files that can run code are not loaded unless they are trusted.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h
_CLONE_NEWNET: Final = 0x40000000


def leave_network() -> bool:
    """Move this process into a network of its own that has no interfaces; tell whether it worked.

    To be called before the first thread starts. User and group stay what they are.
    """
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    if unshare(_CLONE_NEWNET) == 0:  # as root
        return True
    user, group = os.getuid(), os.getgid()
    if unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    own = Path("/proc/self")
    try:
        (own / "uid_map").write_text(f"{user} {user} 1")
        (own / "setgroups").write_text("deny")  # the kernel asks for it before gid_map
        (own / "gid_map").write_text(f"{group} {group} 1")
    except OSError:
        pass  # the network is left all the same; files are still ours by the kernel's own number
    return True
