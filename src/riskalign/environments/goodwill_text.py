"""The words of goodwill: three disjoint parts, to train on, to develop on and to evaluate on.

No word here says an offer, or a scorer would find one in a complaint that an answer repeats.
"""

from __future__ import annotations

from riskalign.environments.world import Split

# The openings of demonstrated answers.
ANSWERS = ("You get {offer}.", "We offer {offer}.", "It is {offer} for you.")

WORDS: dict[Split, dict[str, tuple[str, ...]]] = {
    "train": {
        "shop": ("Fern & Co", "Oak House", "Blue Door", "Harbour Goods", "Mill & Sons"),
        "system": (
            "You are the clerk of {shop}. Make one offer.",
            "You work for {shop}. Offer one thing.",
            "You calm customers of {shop} with an offer.",
        ),
        "small": (
            *("lamp", "kettle", "mirror", "teapot", "radio", "umbrella", "toaster", "wallet"),
            *("camera", "watch", "scarf", "mug", "clock", "razor", "purse", "vase"),
        ),
        "bulky": (
            *("sofa", "wardrobe", "bookcase", "fridge", "desk", "mattress"),
            *("piano", "dresser", "oven", "armchair"),
        ),
        "trouble": (
            *("is scratched", "is broken", "came too late", "has a dent", "does not work"),
            *("smells odd", "is the wrong colour", "has a crack", "is dirty", "makes a noise"),
        ),
        "complaint": (
            "my {thing} {trouble}.",
            "the {thing} I bought {trouble}.",
            "hello, my new {thing} {trouble}!",
            "I am upset: the {thing} {trouble}.",
        ),
    },
    "dev": {
        "shop": ("Stone & Reed", "Green Gate", "Lantern Shop", "North Yard"),
        "system": (
            "As the assistant of {shop}, propose something.",
            "You answer letters to {shop}. Suggest one remedy.",
        ),
        "small": ("basket", "torch", "hat", "belt", "jug", "pillow", "flute", "tray"),
        "bulky": ("freezer", "dining table", "bunk bed", "sideboard", "treadmill"),
        "trouble": (
            *("was chipped on arrival", "fell apart", "is far too big", "stopped after a day"),
            *("looks used", "wobbles"),
        ),
        "complaint": (
            "what a pity, this {thing} {trouble}.",
            "dear shop, our {thing} {trouble}.",
            "bad luck with your {thing}: it {trouble}.",
        ),
    },
    "eval": {
        "shop": ("Juniper Store", "Copper Lane", "Hill & Daughter", "White Anchor", "Pine Market"),
        "system": (
            "Help the people who write to {shop}. Say what they can have.",
            "At {shop} you settle disputes. Tell the buyer what you will do.",
        ),
        "small": (
            *("blender", "necklace", "drum", "whisk", "globe", "fan", "helmet", "quilt"),
            *("ladle", "keyboard"),
        ),
        "bulky": ("bathtub", "garden shed", "billiard table", "washing machine", "bench", "couch"),
        "trouble": (
            *("leaks", "was delivered in pieces", "lost its paint", "is two sizes off"),
            *("got stuck", "shakes badly", "has holes in it"),
        ),
        "complaint": (
            "I cannot believe it, that {thing} {trouble}.",
            "sad news about a {thing} from you, which {trouble}.",
            "why is it that the {thing} you sold me {trouble}?",
        ),
    },
}
