"""Which files of the two packages are photographs, and of which class.

The class follows from the folder. Folders of the packages that hold animals of several classes are listed by name.
All PNG and WebP files of a folder count, with five exceptions: folders named cartoon, plastic or toys, mirrored copies,
files that are drawings (DRAWINGS, found by looking at all) or copies of others (COPIES), and stamps of fewer than
`LEAST_PX` pixels.
"""

from pathlib import PurePosixPath

from stages.core import UserError

TUXPAINT, GCOMPRIS = "tuxpaint-stamps-default", "gcompris-qt-data"
STAMPS, ACTIVITIES = "usr/share/tuxpaint/stamps", "gcompris/src/activities"
ENDINGS = (".png", ".webp")
LEAST_PX = 64  # of the longer side: smaller ones would be blurred at 128 px
OTHER_FOLDERS = {"cartoon", "plastic", "toys"}
FOLDERS = {  # of stamps, with all folders inside
    "birds": ["animals/birds"],
    "fish": ["animals/fish"],
    "mammals": ["animals/mammals", "animals/marsupials"],
    "small_animals": ["animals/insects", "animals/amphibians", "animals/lizards", "animals/shellfish"],
    "food": ["food"],
    "plants": ["plants"],
    "tools": ["household/tools", "household/arttools"],
    "household": ["household/dishes", "household/electronics", "household"],  # the last: what tools does not hold
    "vehicles": ["vehicles", "military/vehicles"],
    "space": ["space"],
    "buildings": ["town/monuments"],
}
ACTIVITY_FOLDERS = {  # of activities
    "fish": ["categorization/resource/images/fishes"],
    "tools": ["categorization/resource/images/tools"],
    "household": ["categorization/resource/images/others"],
    "energy": ["categorization/resource/images/renewable"],  # dams, windmills, solar panels
    "buildings": ["categorization/resource/images/monuments", "explore_monuments/resource"],
}
MIXED = [
    "erase/resource",
    "explore_farm_animals/resource/animals",
    "explore_world_animals/resource/animals",
]
ANIMALS = {
    "birds": "chicken duck gosling heron kingfisher northern_harrier owl penguin scarlet_macaw spoonbills swans toucan",
    "mammals": "alpaca bison calf camels cat cheetah cow dog dolphin flying_fox gibbon giraffe goat gorilla hedgehog "
    "horse jaguar kangaroo kitten koala lemur long_nosed_monkey macaque meerkats moose narwhal nubian_ibex panda pig "
    "pika polar_bear red_panda rhinoceros sheep squirrel",
    "small_animals": "bee butterfly caterpillar chamaeleon chameleon crab crocodile dragon",
}
DRAWINGS = {  # stamps
    "0_sun", "bee", "chineseJunk", "echidna", "glass", "hedgehog", "highlighter", "inukshuk-outline", "key", "mug",
    "pizza", "sedan_police", "shrimp",
}  # fmt: skip


COPIES = {  # of pictures in explore_monuments
    f"categorization/resource/images/monuments/{name}.webp" for name in ("brandenburgGate", "colosseum", "greatPyramid")
}


def class_of(path: str) -> str | None:
    """The class of a file by its path in the package or in the resource file; None for what is no photograph."""
    place = PurePosixPath(path)
    if place.suffix not in ENDINGS or OTHER_FOLDERS & {*place.parts} or place.stem.endswith("_mirror"):
        return None
    if path.startswith(f"{STAMPS}/"):
        return None if place.stem in DRAWINGS else inside(place.relative_to(STAMPS), FOLDERS)
    if path.startswith(f"{ACTIVITIES}/"):
        return of_activity(place.relative_to(ACTIVITIES))
    return None


def of_activity(place: PurePosixPath) -> str | None:
    """The class of a picture of GCompris, by its folder, or by its name in a folder of several classes."""
    if str(place) in COPIES:
        return None
    if str(place.parent) in MIXED:
        return next((name for name, stems in ANIMALS.items() if place.stem in stems.split()), None)
    return inside(place, ACTIVITY_FOLDERS)


def inside(place: PurePosixPath, classes: dict[str, list[str]]) -> str | None:
    """The class of the first folder that holds the file, in the order of the table."""
    return next((name for name, folders in classes.items() if any(map(place.is_relative_to, folders))), None)


def check_all(found: set[str]) -> None:
    """`UserError` if a class of the tables got no picture, as after a change of the packages."""
    if missing := sorted({*FOLDERS, *ACTIVITY_FOLDERS, *ANIMALS} - found):
        raise UserError(f"no picture of the classes {', '.join(missing)}: other packages than expected")
