"""Whether a host answers. Uses the standard library alone, because `make` asks before it installs anything."""

import urllib.error
import urllib.request

SECONDS = 10  # that a host has to answer


def answers(url: str) -> bool:
    """Whether a host answers at all, be it that it has no such file."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
