"""One Triton server process: how it is found, laid out, started, watched and stopped."""
