"""What training costs as the number of pairs grows, computed from the measured rates of one processor."""

from speed.tables import number

ITEMS = ("features", "epoch")  # they measure the rates
EPOCHS = 10  # the paper's (appendix)
PAIRS = (8_000, 118_000, 3_000_000, 30_000_000)  # as many as Flickr8k, COCO, GCC-3M and the paper's three sets
N, WIDTH, DIM, BYTES = 196, 768, 512, 2  # ViT-B/16 at 224 pixels: tokens, D_v, D; float16


def rates(items: dict) -> dict:
    """Measured seconds per pair for its photo, tokens, caption and training; bytes read per second; GB of a training
    step and of the encoder.
    """
    reading, encoding = items["features"]["rows"]
    _, step = items["epoch"]["rows"]
    return {
        "photo_seconds": items["features"]["seconds_a_photo"],
        "tokens_seconds": encoding["seconds_an_image"],
        "caption_seconds": items["features"]["seconds_a_caption"],
        "training_seconds": step["seconds_a_pair"],
        "read_bytes_a_second": reading["bytes_a_second"],
        "training_gigabytes": step["gigabytes"]["ours"],
        "encoder_gigabytes": encoding["gigabytes"]["ours"],
    }


def cost(pairs: int, features: str, rates: dict) -> dict:
    """Seconds, GB on disk and GB in memory of training on so many pairs.

    features: "once" (computed once, kept as float16, read in every epoch) or "on the fly" (computed in every epoch).
    """
    encoding = pairs * (rates["photo_seconds"] + rates["tokens_seconds"] + rates["caption_seconds"])
    training = EPOCHS * pairs * rates["training_seconds"]
    if features == "on the fly":
        seconds, disk = EPOCHS * encoding + training, 0.0
        memory = rates["training_gigabytes"] + rates["encoder_gigabytes"]
    else:
        tokens, texts = pairs * N * WIDTH * BYTES, pairs * DIM * BYTES
        seconds = encoding + training + EPOCHS * tokens / rates["read_bytes_a_second"]
        disk, memory = (tokens + texts) / 1e9, rates["training_gigabytes"] + texts / 1e9
    sizes = {"disk_gigabytes": disk, "memory_gigabytes": memory}
    return {"pairs": pairs, "features": features, "seconds": seconds, **sizes}


def table(rates: dict) -> dict:
    """All rows, the rates behind them, and the rule in words."""
    milliseconds = {name: f"{number(1e3 * value)} ms" for name, value in rates.items()}
    rule = (
        f"Rule: a pair's photo ({milliseconds['photo_seconds']} to decode and resize), tokens "
        f"({milliseconds['tokens_seconds']}) and caption ({milliseconds['caption_seconds']}), once or in each of "
        f"{EPOCHS} epochs; in each epoch also its training ({milliseconds['training_seconds']}) and the reading of its "
        f"cached tokens ({number(rates['read_bytes_a_second'] / 1e9)} GB per second, from the page cache). Disk: {N} "
        f"tokens of {WIDTH} numbers and a caption of {DIM}, in float16, without the photos. Memory: a training step's, "
        "and that of all captions or of the encoder."
    )
    limits = (
        "All rates are of one processor and of ViT-B/16 with random weights, the encoders in bfloat16, the training "
        "step in float32; no GPU was measured. If cached tokens don't fit in memory, the disk decides how fast they "
        "are read, which was not measured. Noun prompts are not counted."
    )
    rows = [cost(pairs, features, rates) for pairs in PAIRS for features in ("once", "on the fly")]
    return {"rates": rates, "rows": rows, "notes": [rule, limits]}
