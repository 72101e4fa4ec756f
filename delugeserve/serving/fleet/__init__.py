"""The supervisor of ``delugeserve serve``: which servers run, which of them are asked, and why."""
