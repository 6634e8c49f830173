"""The downloader: what servers of strangers are asked for, within which bounds, and who does not want it."""
