"""Collect the photos of the world recipes: `python experiments/world_photos.py --photos FOLDER --debian FOLDER`.

Needs:    --photos, a folder with `cid22` (the 200 training references of CID22-512, CC BY-SA 4.0) and `clic2025` (the
          CLIC 2025 photos, Unsplash licence), both in the public repository imazen/codec-corpus. --debian, where the
          packages below were unpacked: `apt-get download PACKAGE` and `dpkg -x PACKAGE*.deb FOLDER`; their copyright
          files name authors and licences (CC BY-SA, CC BY, GPL, public domain).
Writes:   one folder for each source to --output; photos above 1,536 pixels are reduced, which also removes their noise.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from daclip.errors import DaclipError
from daclip.files import atomic_file, find_photos

LONGEST = 1536  # px
GROUNDS = (
    "HortonRockWall HortonRockWall2 Paving_stones_2 black_rockMountain bow_tile canyon "
    "city_asphalt_1 city_ground city_rock cracked-earth-texture dirt grass2 grass3 pyramidwall "
    "racetrack_grass rock rockMountain rock_mountain rockwall sand2 stonetex summersky_b tarmac "
    "woodBridge wood_planks1 yellow_dirt"
)
# The photographs among the pictures; the others are drawn, or show weather, darkness or drops.
DEBIAN = {
    "lomiri-wallpapers-20.04": (
        "Bridge_by_Sander_Klootwijk.jpg",
        "Dragonfly_by_Bolly.jpg",
        "Kleiber_by_Lukas_Baubkus.jpg",
        "Picture_0B_by_freespace.jpg",
        "Picture_1A_by_freespace.jpg",
        "Wine_by_Jakkub_Mede.jpg",
        "aitzgorri_by_Aitzol_Berasategi.jpg",
        "free_by_Peter_Nerlich.jpg",
        "friends_by_Aitzol_Berasategi.jpg",
        "greentock_by_Peter_Nerlich.jpg",
        "life_by_Aitzol_Berasategi.jpg",
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "seeding_by_Clements_Engelhardt.jpg",
        "sunset_by_Aitzol_Berasategi.jpg",
    ),
    "mate-backgrounds": tuple(
        f"mate/nature/{name}.jpg"
        for name in ("Aqua", "Blinds", "Dune", "Garden", "GreenMeadow", "LadyBird", "TwoWings", "Wood", "YellowFlower")
    ),
    "plasma-workspace-wallpapers": (
        *(
            f"{name}/contents/images/2560x1600.jpg"
            for name in ("BytheWater", "ColdRipple", "ColorfulCups", "EveningGlow", "FallenLeaf", "Kite")
        ),
        *(f"{name}/contents/images/2560x1600.jpg" for name in ("OneStandsOut", "Path", "summer_1am")),
        "Volna/contents/images/5120x2880.jpg",
    ),
    "supertuxkart-data": (  # grounds and walls, on which shadows fall
        *(f"textures/{name}.jpg" for name in GROUNDS.split()),
        "tracks/ancient_colosseum_labyrinth/3td_BrickOldRound_01.jpg",
        "tracks/black_forest/brick_wall_06.jpg",
        "tracks/black_forest/forest_floor.jpg",
        "tracks/black_forest/rock_gray.jpg",
        "tracks/black_forest/whiteTowel.jpg",
        "tracks/introcutscene2/sign_backside.jpg",
        "tracks/minigolf/racetrack_grass-dark.jpg",
        "tracks/minigolf/sand.jpg",
        "tracks/stk_enterprise/base1c.jpg",
        *(f"tracks/volcano_island/{name}.jpg" for name in ("grass", "hut1", "hut2", "road2", "rock02", "wall2")),
        "tracks/xr591/red_dirt.jpg",
        "tracks/zengarden/rockMountainWater.jpg",
    ),
}


def reduce(source: Path, target: Path) -> None:
    """Copy a photo, reduced where it is too large, under the name that decides its side of the split."""
    with Image.open(source) as image, atomic_file(target) as file:
        if max(image.size) <= LONGEST:
            file.write(source.read_bytes())
            return
        small = image.convert("RGB")
        small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        small.save(file, format="JPEG", quality=98, subsampling=0)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder with cid22 and clic2025")
    parser.add_argument("--debian", type=Path, help="where the packages were unpacked")
    parser.add_argument("--output", type=Path, default=Path("outputs/world_photos"))
    options = parser.parse_args()
    count = 0
    for path in find_photos(options.photos).photos:
        reduce(path, options.output / path.relative_to(options.photos))
        count += 1
    for package, names in (DEBIAN if options.debian else {}).items():
        for name in names:
            found = sorted(options.debian.rglob(f"*/{name}"))
            if not found:
                raise DaclipError(f"{options.debian}: {name} of {package} is missing; unpack the package there")
            number = Path(name).parts[0] if "contents" in name else Path(name).stem
            reduce(found[0], options.output / "debian" / f"{number}.jpg")
            count += 1
    sys.stdout.write(f"{count} photos in {options.output}\n")


if __name__ == "__main__":
    main()
