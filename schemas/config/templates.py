"""What `shardmill init` writes: a short, commented configuration for each kind of source."""

import json
from pathlib import Path

TEMPLATE = """\
# Shardmill: one file for everything. `shardmill plan {name}` says what a run would do.

root = {root}                  # folder of the corpus, or s3://…, gs://…

[source]
kind = "{kind}"
{source}
[images]
min_side = 10                           # pixels; smaller images are left out, with a reason
# max_bytes = 50000000
# max_pixels = 100000000                # width times height, checked before decoding
# max_aspect_ratio = 20                 # longer side divided by shorter side

[duplicates]                            # without this table, duplicates stay
near = 3                                # bits in which 64-bit perceptual hashes may differ; -1: only equal bytes
# compare = "pixels"                    # compares the pictures themselves: for pages, forms and cards of one layout
# exclude = ["mmbench", "takedown.txt"] # images to keep out: folders of images; lists of hashes, text or Parquet

[ocr]                                   # without this table, no text is read
engine = "rapidocr"                     # or "easyocr"
min_confidence = 0.5                    # lines of a lower confidence are left out
# good_confidence = 0.9                 # least confidence of a text that is good enough to learn from

# [ocr.easyocr]                         # needs the extra [easyocr], and its weights
# languages = ["en"]                    # RapidOCR reads Latin letters, Chinese and Japanese
# models = "easyocr-models"             # folder of its weights; download = true fetches missing ones
# gpu = false

{asking}[sets.train]                            # a shard set; there may be several
{task}# weight = 0.1                          # keeps a tenth, always the same one
samples_per_shard = 1000
# max_side = 1344                       # pixels; larger images are scaled down; also max_pixels
# format = "jpg"                        # or "png", "webp": encodes images of other formats, see other_formats
# quality = 90                          # of images that are encoded here as jpg or webp
# stable_json = true                    # gives columns of .json one type, for datasets.load_dataset("webdataset")

[gates]                                 # conditions on a run; if one fails, nothing is published
# kept = "kept_share >= 0.5"            # share of the source's rows
# change = "changed_share <= 0.2"       # share of the published samples that change or disappear
# empty_sets = false                    # allows empty sets; by default, an empty set is not published
# lost_share = "lost_share <= 0.9"      # share that a set may lose; default: 0.5; false: any

# [beam]                                # any Beam runner; the default: one process per core
# runner = "FnApiRunner"
# options = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]
"""

TEMPLATE_SOURCES = {
    "folder": 'path = "pictures"                       # images with .txt beside, or captions in Parquet, CSV, JSONL\n'
              '# image_column = "image"                 # if the captions are in tables\n'
              '# text_column = "text"\n',
    "webdataset": 'path = "data/*.tar"                     # img2dataset\'s layout: jpg/png/webp + txt + json\n',
    "laion": 'path = "laion/*.parquet"                # URL and TEXT; all other columns become `extra`\n'
             '# images = "pictures"                   # a folder of images that are already on this machine …\n'
             '# image_column = "image_path"           # … and the column with the path of a row\'s image\n'
             "\n"
             "# [fetch]                               # without this table, no URL is requested\n"
             '# contact = "you@example.org"           # your mail address or page, sent with every request\n'
             "# in_flight = 256                       # requests at once, of a worker process; to one host\n"
             "# per_host = 4\n"
             "# deadline = 30                         # seconds that one try may take\n"
             "# tries = 2\n"
             '# allow_hosts = ["10.0.0.5"]            # hosts that may have private addresses\n'
             "# honour_robots_tag = true              # respects X-Robots-Tag: noai, noimageai, noindex, noimageindex\n"
             "# robots_txt = false\n"
             '# opt_out = ["opt-out.txt"]             # files with one host or URL pattern per line: not requested\n',
    "conversations": 'path = "conversations.json"             # MiniCPM-V\'s: id, image(s), conversations\n'
                     '# images = "pictures"                   # where its image paths start from\n',
    "instructions": 'path = "instructions.jsonl"             # or Parquet: image_path, question, and more for `extra`\n'
                    '# images = "pictures"                   # where its image paths start from\n',
    "huggingface": 'path = "hub"                            # Parquet with images in it, or a folder of save_to_disk\n'
                   '# text_column = "caption"               # default of all columns: a column with a usual name\n'
                   '# captions = "first"                    # or longest, random, all: which caption of a list\n',
    "scenes": "count = 200                             # drawn pictures with a known truth and noisy alt texts\n"
              "seed = 0\n"
              "side = 224                              # pixels\n"
              "noise = 0.5                             # share of noisy alt texts\n"
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
[endpoints.policy]                      # a model on an OpenAI-compatible server: a running one …
model = "openbmb/MiniCPM-V-2_6"
url = "http://localhost:8000/v1"
# command = "vllm serve {model} --port {port} --trust-remote-code"    # … or one that the run starts and stops
# api_key_env = "POLICY_KEY"            # the environment variable that holds the key

[responses]                             # the policy's answers to each instruction
endpoint = "policy"
draws = 10

# [claims]                              # a model that divides responses; without it, rules divide plain sentences
# endpoint = "divider"

[verdicts]                              # judge each claim
labelers = ["policy"]                   # another model is better; the verdicts of several are all kept

[pairs]
per_instruction = 2                     # maximum of drawn pairs

"""

REWRITING = """\
# [endpoints.writer]                    # a model on any OpenAI-compatible server; test it: shardmill check-endpoint
# model = "openbmb/MiniCPM-V-2_6"
# url = "http://localhost:8000/v1"      # one or a list; or command = "…", with {model} and {port}, to start one
# api_key_env = "WRITER_KEY"            # the environment variable that holds the key
# max_calls = 100000                    # in one run, which then stops; the next run continues

# [captions]                            # without this table, captions stay as the source has them
# endpoint = "writer"                   # rewrites weak captions; try it first: shardmill try captions
# image = true                          # the model also gets the image, not only the alt text

"""

# MiniCPM-V's: under 0.5 % of the conversations teach 36 languages
MULTILINGUAL = """\
# [endpoints.translator]                # a model on any OpenAI-compatible server; test it: shardmill check-endpoint
# model = "Qwen/Qwen3-8B"
# url = "http://localhost:8000/v1"      # one or a list; or command = "…", with {model} and {port}, to start one
# api_key_env = "TRANSLATOR_KEY"        # the environment variable that holds the key

# [translations]                        # without this table, all conversations stay in their language
# endpoint = "translator"               # answers are checked: language, length, marks of images
# share = 0.005                         # of the rows, each in one of 36 languages: `shardmill keys translations`

# [measures]                            # language, words and tokens of each row, for quotas and statistics

"""


def template(path: Path, kind: str) -> str:
    """A short, commented configuration for a kind of source."""
    task = TEMPLATE_TASKS.get(kind, TEMPLATE_TASKS[""])
    asking = {"instructions": ASKING, "conversations": MULTILINGUAL}.get(kind, REWRITING)
    source = TEMPLATE_SOURCES[kind]
    root = json.dumps(f"{path.stem}-corpus", ensure_ascii=False)  # as TOML writes a string, too
    return TEMPLATE.format(name=path.name, root=root, kind=kind, source=source, task=task, asking=asking)
