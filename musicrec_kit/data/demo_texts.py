"""Titles and descriptions of the demo products: they tell kind, purpose and material, the colour only when asked to."""

from dataclasses import dataclass

import numpy as np

BRANDS = (
    "Harlow",
    "Nordby",
    "Tamsin & Co",
    "Fjellheim",
    "Ostara",
    "Quill",
    "Brightwater",
    "Pemberley",
    "Juniper Lane",
    "Kestrel",
    "Marlowe",
    "Atelier Voss",
)

# purpose -> phrases that end a title, and sentences of a description; the order is the number of the purpose
PURPOSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "camping": (
        (
            "for Wild Camping Trips",
            "for Tent and Trail",
            "Made for Campsites",
            "for Campfire Evenings",
            "for Hikers and Campers",
        ),
        (
            "Made for wild camping, far from the nearest road.",
            "Pack it beside the tent and the sleeping bag.",
            "It belongs on a campsite, next to the campfire and the camping stove.",
            "Hikers and campers take it along on long trails in the mountains.",
            "Ready for nights in a tent in the forest.",
        ),
    ),
    "office": (
        ("for the Home Office", "for Desk Work", "for the Office Desk", "for Business Meetings", "for Remote Workers"),
        (
            "Made for the home office and long days of desk work.",
            "It suits video meetings, spreadsheets and everything between two emails.",
            "Colleagues in the office will ask where you bought it.",
            "Keep it beside the laptop and the printer.",
            "A professional companion for business people and remote workers.",
        ),
    ),
    "toddlers": (
        ("for Toddlers", "for the Nursery", "for Babies and Toddlers", "for Little Children", "for Kindergarten Kids"),
        (
            "Made for toddlers, with no small parts that a baby could swallow.",
            "It belongs in the nursery, between the crib and the toy box.",
            "Little children in kindergarten love it at playtime.",
            "Parents like that it survives babies who are teething.",
            "Safe for small hands, from the first birthday on.",
        ),
    ),
    "wedding": (
        (
            "as a Wedding Gift",
            "for the Bride and Groom",
            "for Newlyweds",
            "for Wedding Receptions",
            "for the Bridal Party",
        ),
        (
            "A wedding gift that bride and groom will remember.",
            "Made for newlyweds and for the day they say yes.",
            "Put it on the table of the wedding reception, beside the bouquet.",
            "Bridesmaids give it at bridal showers and engagement parties.",
            "Engrave it with the names of the couple and the date of the marriage.",
        ),
    ),
    "running": (
        ("for Marathon Training", "for Runners", "for the Gym", "for Athletes in Training", "for Workout Days"),
        (
            "Made for marathon training and the last sprint before the finish line.",
            "Runners and athletes use it before and after every workout.",
            "It goes to the gym, to the running track and to every race.",
            "Sweat does it no harm, however hard the exercise.",
            "Coaches recommend it for fitness training and interval runs.",
        ),
    ),
    "sailing": (
        ("for Sailing Boats", "for Sailors at Sea", "for the Yacht", "for Harbour and Deck", "for Ocean Voyages"),
        (
            "Made for sailing, with salt water and spray in mind.",
            "It has its place on deck, between anchor and mast.",
            "Sailors take it aboard the yacht for voyages across the ocean.",
            "Waves and wind at sea do it no harm.",
            "From the harbour to the open sea, the whole crew relies on it.",
        ),
    ),
    "gardening": (
        (
            "for Gardeners",
            "for the Vegetable Garden",
            "for Garden and Allotment",
            "for Planting Season",
            "for Plant Lovers",
        ),
        (
            "Made for gardeners and for mornings among the vegetable beds.",
            "It is at home in the garden shed, between seedlings and watering cans.",
            "Soil and compost wash off in a moment.",
            "Take it along when you plant, weed and harvest tomatoes.",
            "For everyone who grows herbs and flowers on an allotment.",
        ),
    ),
    "stargazing": (
        (
            "for Stargazing Nights",
            "for Amateur Astronomers",
            "for the Observatory",
            "for Telescope Owners",
            "for Watching the Stars",
        ),
        (
            "Made for stargazing, on nights when the galaxy is clear.",
            "Amateur astronomers keep it beside the telescope.",
            "It keeps you company from the first star to the last planet.",
            "Wait with it for comets, meteors and eclipses of the moon.",
            "A favourite in observatories and astronomy clubs.",
        ),
    ),
    "dogs": (
        ("for Dog Owners", "for Walking the Dog", "for Puppy Parents", "for Dog Lovers", "for Dog Trainers"),
        (
            "Made for dog owners and their long walks.",
            "Puppies may chew on it, it does not mind.",
            "It goes with leash, collar and a pocket full of dog treats.",
            "Paw prints and dog hair wipe off easily.",
            "Dog trainers and breeders of terriers swear by it.",
        ),
    ),
    "halloween": (
        ("for Halloween", "for Haunted Houses", "for Trick or Treat", "for Spooky Parties", "for Ghosts and Witches"),
        (
            "Made for Halloween, trick or treat.",
            "It belongs in a haunted house, with cobwebs and carved pumpkins.",
            "Witches, ghosts and vampires bring it to every spooky party.",
            "Scare the neighbours with it on the last night of October.",
            "Goes with any monster costume and a skeleton at the door.",
        ),
    ),
}

# kind -> words for it, its shelves, sentences about it
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "mug": (
        ("Mug", "Coffee Mug", "Tea Mug"),
        ("Kitchen", "Mugs"),
        ("A mug that holds a third of a litre of coffee.", "The handle of the mug fits a whole hand."),
    ),
    "guitar": (
        ("Guitar", "Acoustic Guitar"),
        ("Music", "Guitars"),
        ("A guitar with six strings and a warm sound.", "The guitar stays in tune for weeks."),
    ),
    "umbrella": (
        ("Umbrella", "Rain Umbrella"),
        ("Accessories", "Umbrellas"),
        ("An umbrella with a curved handle.", "The umbrella opens at the push of a button and keeps off the rain."),
    ),
    "sneaker": (
        ("Sneakers", "Lace-Up Sneakers"),
        ("Shoes", "Sneakers"),
        ("Sneakers with a rubber sole and a padded heel.", "These shoes are light and lace up firmly."),
    ),
    "clock": (
        ("Alarm Clock", "Twin-Bell Clock"),
        ("Home", "Clocks"),
        ("An alarm clock with two bells.", "The clock ticks softly and rings loudly."),
    ),
    "backpack": (
        ("Backpack", "Rucksack"),
        ("Bags", "Backpacks"),
        ("A backpack with a front pocket and two side pockets.", "The straps of the rucksack are padded."),
    ),
    "lamp": (
        ("Table Lamp", "Lamp"),
        ("Home", "Lamps"),
        ("A table lamp with a wide shade.", "The lamp gives soft light and has a dimmer."),
    ),
    "t-shirt": (
        ("T-Shirt", "Crew-Neck T-Shirt"),
        ("Clothing", "T-Shirts"),
        ("A T-shirt with a round neck and short sleeves.", "The shirt keeps its shape in the wash."),
    ),
    "teapot": (
        ("Teapot", "Tea Kettle"),
        ("Kitchen", "Teapots"),
        ("A teapot for four cups of tea.", "The spout of the teapot pours without dripping."),
    ),
    "chair": (
        ("Chair", "Side Chair"),
        ("Furniture", "Chairs"),
        ("A chair with a high back and four sturdy legs.", "The seat of the chair is comfortable for hours."),
    ),
    "camera": (
        ("Camera", "Compact Camera"),
        ("Electronics", "Cameras"),
        ("A camera with a bright lens and a built-in flash.", "The camera takes sharp photographs."),
    ),
    "cap": (
        ("Cap", "Baseball Cap"),
        ("Clothing", "Caps"),
        ("A cap with a curved brim.", "The strap of the cap fits every head."),
    ),
    "vase": (
        ("Vase", "Flower Vase"),
        ("Home", "Vases"),
        ("A vase with a narrow neck for a few stems.", "The vase stands firmly and does not leak."),
    ),
    "watch": (
        ("Watch", "Wristwatch"),
        ("Accessories", "Watches"),
        ("A wristwatch with a clear dial.", "The watch runs for three years on one battery."),
    ),
    "suitcase": (
        ("Suitcase", "Cabin Trolley"),
        ("Bags", "Suitcases"),
        ("A suitcase with two wheels and a pull-out handle.", "The suitcase fits into the overhead locker."),
    ),
}

# kind -> three materials as (word, finish in the picture)
MATERIALS: dict[str, tuple[tuple[str, str], ...]] = {
    "mug": (("ceramic", "gloss"), ("steel", "brushed"), ("bamboo", "grain")),
    "guitar": (("spruce wood", "grain"), ("lacquered maple", "gloss"), ("carbon fibre", "weave")),
    "umbrella": (("canvas", "weave"), ("coated nylon", "gloss"), ("waxed cotton", "pebbled")),
    "sneaker": (("canvas", "weave"), ("leather", "pebbled"), ("patent leather", "gloss")),
    "clock": (("beech wood", "grain"), ("steel", "brushed"), ("enamel", "gloss")),
    "backpack": (("canvas", "weave"), ("leather", "pebbled"), ("coated nylon", "gloss")),
    "lamp": (("linen", "weave"), ("steel", "brushed"), ("ceramic", "gloss")),
    "t-shirt": (("cotton", "weave"), ("wool", "pebbled"), ("satin", "gloss")),
    "teapot": (("porcelain", "gloss"), ("steel", "brushed"), ("stoneware", "pebbled")),
    "chair": (("beech wood", "grain"), ("leather", "pebbled"), ("linen", "weave")),
    "camera": (("leather", "pebbled"), ("aluminium", "brushed"), ("polycarbonate", "gloss")),
    "cap": (("canvas", "weave"), ("felt", "pebbled"), ("satin", "gloss")),
    "vase": (("porcelain", "gloss"), ("stoneware", "pebbled"), ("beech wood", "grain")),
    "watch": (("steel", "brushed"), ("leather", "pebbled"), ("silicone", "gloss")),
    "suitcase": (("leather", "pebbled"), ("aluminium", "brushed"), ("polycarbonate", "gloss")),
}


@dataclass(frozen=True)
class Wording:
    """The text of one product."""

    title: str
    description: str
    brand: str
    categories: list[str]


def write_text(kind: str, purpose: str, material: str, colour: str | None, rng: np.random.Generator) -> Wording:
    """Return a product's text, in words that `rng` picks; the colour is named only if it is given."""
    words, shelves, about = KINDS[kind]
    endings, uses = PURPOSES[purpose]
    brand = str(rng.choice(BRANDS))
    title = f"{brand} {rng.choice(words)} {rng.choice(endings)}"
    # three of the five: enough for a sentence encoder to weigh the purpose like the kind
    first, second, third = rng.choice(len(uses), size=3, replace=False)
    sentences = [uses[first], f"{rng.choice(about)} Made of {material}.", uses[second], uses[third]]
    if colour is not None:
        title += f", {colour.title()}"
        sentences.insert(1, f"The colour is a strong {colour}.")
    return Wording(title, " ".join(sentences), brand, [shelves[0], shelves[1]])
