"""What `shardmill init` writes: a short, commented configuration for each kind of source."""

import json
from pathlib import Path

TEMPLATE = """\
# Shardmill: one file for everything. `shardmill plan {name}` says what a run would do.

root = {root}                  # where all goes: a folder, or s3://…, gs://…

[source]
kind = "{kind}"
{source}
[images]
min_side = 10                           # pixels; smaller images are left out, with a reason
# max_bytes = 50000000
# max_pixels = 100000000                # looked at before decoding
# max_aspect_ratio = 20                 # of the longer side to the shorter one

[duplicates]                            # leave this table out and duplicates stay
near = 3                                # bits in which 64-bit perceptual hashes may differ; -1: only equal bytes
# exclude = ["mmbench", "takedown.txt"] # images to keep out: folders of them; lists of hashes, text or Parquet

[ocr]                                   # leave this table out and no text is read
engine = "rapidocr"                     # or "easyocr"
min_confidence = 0.5                    # lines below are left out
# good_confidence = 0.9                 # texts below, or too short, or of signs that make no sense, teach nothing

# [ocr.easyocr]                         # needs the extra [easyocr], and its weights
# languages = ["en"]                    # RapidOCR's one model is for Latin letters, Chinese and Japanese
# models = "easyocr-models"             # the folder of its weights; download = true fetches those that are missing
# gpu = false

{asking}[sets.train]                            # one shard set; add as many as you like
{task}# weight = 0.1                          # keep a tenth, always the same one
samples_per_shard = 1000
# max_side = 1344                       # pixels; larger images are scaled down; also max_pixels
# format = "jpg"                        # or "png", "webp": of all images; others are encoded, see other_formats
# quality = 90                          # of images that are encoded here
# stable_json = true                    # .json with columns of one type, for datasets.load_dataset("webdataset")

[gates]                                 # conditions on a run; if one fails, the shards published before stay
# kept = "kept_share >= 0.5"            # of the rows of the source
# change = "changed_share <= 0.2"       # of the samples published before: those changed and removed
# empty_sets = false                    # a set may be empty; without this line, such a set is not published
# lost_share = "lost_share <= 0.9"      # of a set's samples; without this line half of them, false for all

# [beam]                                # any Beam runner; this is the default: a process a core
# runner = "FnApiRunner"
# options = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]
"""

TEMPLATE_SOURCES = {
    "folder": 'path = "pictures"                       # images with .txt beside, or captions in Parquet, CSV, JSONL\n'
              '# image_column = "image"                 # if the captions are in tables\n'
              '# text_column = "text"\n'
              "rows_per_partition = 1000\n",
    "webdataset": 'path = "data/*.tar"                     # img2dataset\'s layout: jpg/png/webp + txt + json\n',
    "laion": 'path = "laion/*.parquet"                # URL and TEXT; every other column goes along, as `extra`\n'
             '# images = "pictures"                   # a folder of bytes that are here already …\n'
             '# image_column = "image_path"           # … and the column that names a row\'s file in it\n'
             "rows_per_partition = 1000\n\n"
             "# [fetch]                               # leave this table out and no URL is asked for\n"
             '# contact = "you@example.org"           # a mail address or page; goes out with every request\n'
             "# in_flight = 256                       # URLs asked at once, and of one host, a worker process\n"
             "# per_host = 4\n"
             "# deadline = 30                         # seconds that one of its tries may take\n"
             "# tries = 2\n"
             '# allow_hosts = ["10.0.0.5"]            # that may be at private addresses\n'
             "# honour_robots_tag = true              # X-Robots-Tag: noai, noimageai, noindex, noimageindex\n"
             "# robots_txt = false\n"
             '# opt_out = ["opt-out.txt"]             # a host, or a pattern of URLs, a line\n',
    "conversations": 'path = "conversations.json"             # MiniCPM-V\'s: id, image(s), conversations\n'
                     '# images = "pictures"                   # where its image paths start from\n'
                     "rows_per_partition = 1000\n",
    "instructions": 'path = "instructions.jsonl"             # or Parquet: image_path, question; all else goes along\n'
                    '# images = "pictures"                   # where its image paths start from\n'
                    "rows_per_partition = 1000\n",
    "huggingface": 'path = "hub"                            # Parquet with images in it, or a folder of save_to_disk\n'
                   '# text_column = "caption"               # found by its usual names, as the others are\n'
                   '# captions = "first"                    # or longest, random, all: which of a list\n',
    "scenes": "count = 200                             # drawn pictures with a known truth and noisy alt texts\n"
              "seed = 0\n"
              "side = 224                              # pixels\n"
              "noise = 0.5                             # share of alt texts that are not simply true\n"
              "planted = 0.08                          # share of duplicates and broken files\n"
              "rows_per_partition = 50\n",
}


TEMPLATE_TASKS = {
    "": 'where = "width >= 64 and height >= 64"  # SQL over the view `samples`\n'
        'task = "caption"                        # or "ocr": the target is the text in the image; or "conversation"\n',
    "conversations": 'where = "true"                          # SQL over the view `samples`\n'
                     'task = "conversation"\n',
    "instructions": 'where = "true"                          # SQL over `preferences`: "margin > 1", …\n'
                    'task = "preference"                     # pairs of a chosen and a rejected response\n',
}

ASKING = """\
[endpoints.policy]                      # models are OpenAI-compatible servers: one that runs …
model = "openbmb/MiniCPM-V-2_6"
url = "http://localhost:8000/v1"
# command = "vllm serve {model} --port {port} --trust-remote-code"    # … or one that is started and stopped
# api_key_env = "POLICY_KEY"            # the environment variable that holds the key

[responses]                             # of the policy, to each instruction
endpoint = "policy"
draws = 10

# [claims]                              # a model that divides responses; without it, rules for plain sentences do
# endpoint = "divider"

[verdicts]                              # on each claim
labelers = ["policy"]                   # better another model; several are each kept

[pairs]
per_instruction = 2                     # drawn at most

"""

REWRITING = """\
# [endpoints.writer]                    # a model: any OpenAI-compatible server; is it well? shardmill check-endpoint
# model = "openbmb/MiniCPM-V-2_6"
# url = "http://localhost:8000/v1"      # one or a list; or a command, with {model} and {port}, that starts one
# api_key_env = "WRITER_KEY"            # the environment variable that holds the key
# max_calls = 100000                    # of one run, which ends there; the next goes on

# [captions]                            # leave this table out and captions stay as they came
# endpoint = "writer"                   # rewrites those that are weak; look first: shardmill try captions
# image = true                          # shows it the image too, not the alt text alone

"""


def template(path: Path, kind: str) -> str:
    """A short, commented configuration for a kind of source."""
    task = TEMPLATE_TASKS.get(kind, TEMPLATE_TASKS[""])
    asking = {"instructions": ASKING, "conversations": ""}.get(kind, REWRITING)
    source = TEMPLATE_SOURCES[kind]
    root = json.dumps(f"{path.stem}-corpus", ensure_ascii=False)  # as TOML writes a string, too
    return TEMPLATE.format(name=path.name, root=root, kind=kind, source=source, task=task, asking=asking)
