"""What the columns of the page's tables mean: unit, which direction is better, and a sentence for the reader."""

import re
from dataclasses import dataclass

EXTRACTORS = {
    "classifier": "a classifier trained on this data set's real images, which no tokenizer has seen",
    "embedded": "the tokenizers' own encoder, which favors semantic codes",
    "inception": "Inception-v3, as in published results",
    "efficientnet_lite0": "EfficientNet-Lite0, trained on photographs",
    "dinov2": "DINOv2",
    "clip": "CLIP",
}
UP, DOWN = "up", "down"


@dataclass(frozen=True)
class Column:
    """A column's title without its unit, the unit, whether more (up) or less (down) is better, and what it means."""

    title: str
    unit: str = ""
    better: str = ""
    said: str = ""


# pattern of a title -> unit, better direction, meaning; the first pattern found in the title holds
KNOWN: list[tuple[str, str, str, str]] = [
    (r"against ", "", "", "Difference in rFID with its deviation; undecided within two of them."),
    (r" ÷ ", "times", DOWN, "The same, as a multiple of another tokenizer's."),
    (r"chance$", "share", "", "What the images would score with one another's captions."),
    (r"rfid\[", "", DOWN, "Fréchet distance between reconstructions and their originals; 0 is perfect."),
    (r"pfid\[", "", DOWN, "rFID after some codes were replaced by neighbors: how the decoder bears wrong codes."),
    (r"gfid_infinity\[", "", DOWN, "gFID extrapolated to infinitely many samples: FID of few samples is too large."),
    (r"density\[", "", UP, "How densely real images lie around generated ones; about 1 for real images."),
    (r"coverage\[", "share", UP, "Share of real images with a generated one among their neighbors."),
    (r"^effect$", "", UP, "By how much the side that should win does, in the metric's unit; above 0 is as claimed."),
    (r"^deviations$", "", UP, "The effect in standard deviations of the difference; beyond 2 it counts."),
    (r"^trainings$", "", "", "How often each side was trained, with other seeds; a verdict takes 3."),
    (r"^chance\[", "share", "", "What the most frequent class alone would score."),
    (r"^ceiling\[", "share", "", "What the most frequent label of each patch of the network would score."),
    (r"^accuracy$", "share", UP, "Share of val images whose class was found."),
    (r"^miou", "share", UP, "Mean over classes of the overlap of found and true masks; objects: without background."),
    (r"^pixel accuracy$", "share", UP, "Share of pixels whose class was found."),
    (r"^ap\d*$", "share", UP, "Average precision of boxes, as COCO has it; 50 and 75: at that overlap in percent."),
    (r"^(best|middle|last) layer$", "share", UP, "Accuracy of a linear classifier on this layer's mean output."),
    (r"is layer$", "", "", "Which layer that is; 0 is the embeddings."),
    (r"^share of codes$", "share", "", "Share of the codes that were replaced."),
    (r"^among the nearest$", "codes", "", "From how many nearest codes the replacement was drawn."),
    (r"gfid\[", "", DOWN, "Fréchet distance between generated and real training images; 0 is perfect."),
    (r"gkid\[", "", DOWN, "Kernel distance between generated and real training images; 0 is perfect."),
    (r"\bis\[", "", UP, "Inception score: sure and varied classes; at most the number of classes."),
    (r"precision\[", "share", UP, "Share of generated images that lie among real ones."),
    (r"recall\[", "share", UP, "Share of real images that lie among generated ones."),
    (r"class accuracy of real", "share", "", "What the classifier reaches on real val images: the most to expect."),
    (r"class accuracy", "share", UP, "Share of images in which the classifier sees the class asked for."),
    (r"PSNR|one patch for all", "dB", UP, "How close the pixels are; 6 dB more is half the error."),
    (r"SSIM", "", UP, "How close the structure is; 1 is equal."),
    (r"perceptual", "", DOWN, "Distance between patch features of the encoder."),
    (r"unigram perplexity", "codes", "", "Perplexity from the frequencies of codes alone."),
    (r"perplexity|\bppl$", "codes", DOWN, "Among how many codes a generator is undecided at each code. ≤: a bound."),
    (r"bits", "bits", DOWN, "What it takes to code a val image. ≤: an upper bound."),
    (r"entropy nats", "nats", UP, "How evenly codes are used; the most is ln K."),
    (r"live", "codes", UP, "Codes that occur at all."),
    (r"near copies", "share", DOWN, "Share nearer to a training image than 99 % of real val images are."),
    (r"^changed", "share", DOWN, "Share of codes that noise on the pixels changes."),
    (r"cosine", "", UP, "Cosine between vectors with and without noise; 1 is equal."),
    (r"^K$", "codes", "", "Size of the codebook."),
    (r"^dim$", "", "", "Dimensions of a code vector; 0 in the ablation: of the features themselves."),
    (r"^tokens$", "codes", "", "Codes per image."),
    (r"parameters", "weights", "", "Number of weights."),
    (r"GFLOP", "10⁹", DOWN, "Multiplications and additions to decode one image."),
    (r"^steps$", "", "", "Decoding steps; * marks the decoder's own number, – a decoder without steps."),
    (r"^passes$", "", DOWN, "Whole sequences through the network per sample; * marks the settings in params.yaml."),
    (r"^median$|^1 %$|^99 %$", "", "", "Distance to the nearest training image, at this share of the images."),
    (r"variance lost|left out", "share", DOWN, "Share of the variance of the features that is lost."),
    (r"^class$|class from bag", "share", UP, "Accuracy of a linear probe of the class, on val."),
    (r"color R²", "", UP, "How well a linear probe predicts the mean color of a patch; 1 is perfect."),
    (r"^clean$|^augmented$|^few, ", "share", UP, "Accuracy of a linear classifier on val."),
    (r"^σ ", "share", UP, "Accuracy at this deviation of the noise."),
    (r"^SNR$", "dB", "", "Signal to noise: less is noisier."),
    (r"^all$|^shape$|^color$|^position$", "share", UP, "Share of images that show what their caption asks."),
]  # fmt: skip


def describe(title: str) -> Column:
    """What is known of a column; of an unknown one, its title."""
    found = next((entry for entry in KNOWN if re.search(entry[0], title)), None)
    if not found:
        return Column(title)
    _, unit, better, said = found
    name = re.search(r"\[(.+)\]", title)
    features = next((said for key, said in EXTRACTORS.items() if name and name[1].startswith(key)), "")
    shown = title.removesuffix(f" {unit}").rstrip(",") if unit in ("dB", "nats") else title
    return Column(shown or title, unit, better, said + (f" Features of {features}." if features else ""))
