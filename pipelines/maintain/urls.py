"""The tars of a shard set as paths or URLs for readers: `shardmill urls ROOT SET`.

A local root gives paths. webdataset opens no `s3://`: a root in an object store gives `pipe:` and the command that
prints the object, or URLs that are signed for a time, which need no key.
"""

import json
from shlex import quote

from pipelines.engine.root import Root
from schemas.errors import UserError
from schemas.shards import Card

PIPES = {"s3": "aws s3 cp {url} -", "gs": "gcloud storage cat {url}"}  # scheme -> command


def plain_urls(root: Root, card: Card) -> list[str]:
    """Paths, or URLs as fsspec opens them."""
    return [root.url_of(f"shards/{entry['tar']}") for entry in card["shards"]]


def piped_urls(root: Root, card: Card, command: str | None = None) -> list[str]:
    """`pipe:` and a shell command for each tar; `{url}` in `command` is replaced by its quoted URL.

    Without a command, paths of a local root and URLs of other schemes stay as they are. Raises `UserError` for a
    command without `{url}`.
    """
    if command is not None and "{url}" not in command:
        raise UserError("--pipe: write the command with {url} in the place of the URL, as in 'aws s3 cp {url} -'")
    urls = plain_urls(root, card)
    command = command or PIPES.get(urls[0].partition("://")[0] if urls else "")
    return [f"pipe:{command.replace('{url}', quote(url))}" for url in urls] if command else urls


def signed_urls(root: Root, card: Card, seconds: int) -> list[str]:
    """URLs that anybody can read for some seconds. Raises `UserError` if the store cannot sign them."""
    tars = [root.path(f"shards/{entry['tar']}") for entry in card["shards"]]
    try:
        return [root.fs.sign(tar, expiration=seconds) for tar in tars]
    except NotImplementedError:
        raise UserError(f"--presigned: needs a root at s3:// or gs://; the root is {root.url}") from None
    except Exception as error:  # each store's own: no credentials, or credentials that cannot sign
        raise UserError(f"--presigned: {root.url}: {' '.join(str(error).split())}") from None


def wids_index(urls: list[str], card: Card) -> str:
    """The index that wids reads these URLs by, as JSON."""
    shards = [
        {"url": url, "nsamples": entry["samples"], "filesize": entry["bytes"]}
        for url, entry in zip(urls, card["shards"], strict=True)
    ]
    name = f"{card['set']}@{card['release']}"
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": shards}
    return json.dumps(index, indent=1)
