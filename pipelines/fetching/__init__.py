"""The downloader: requests to untrusted servers, the bounds on these requests, and opt-outs."""
