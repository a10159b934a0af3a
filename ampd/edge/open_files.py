"""How many agents strangers may make: each agent has a socket, and a process so many open files.

OF1  Registering by HTTP ends where the open files that are left are needed for connections and
     mail, and at MOST_AGENTS. What the user makes (`amp init`, an owner's key) is not counted out.
OF2  The process may open as many files as the system lets it have, up to ENOUGH.
"""

import resource
from typing import Final

MOST_AGENTS: Final = 5000  # a registration each second for over an hour; nobody's own agents
ENOUGH: Final = 65_536  # files; more makes nothing faster
_FOR_OTHERS: Final = 1500  # files: 512 local connections, 500 of HTTP, peers, the store
_AT_LEAST: Final = 100  # agents, where the system gives 1,024 files and no more


def raise_limit() -> None:
    """OF2."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_agents() -> int:
    """With how many agents on this node nobody registers any more (OF1)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_AGENTS
    return min(MOST_AGENTS, max(_AT_LEAST, soft - _FOR_OTHERS))
