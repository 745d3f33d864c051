"""What is told as `disk_full`, of a job and of a request alike."""

import errno

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a write that found no room: on the disk, within a quota, or in the largest file allowed."""
