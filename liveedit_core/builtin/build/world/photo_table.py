"""Which windows of which photographs are shown, with names given by eye."""

FOLDERS = {
    "scikit-image": "skimage/data",
    "scikit-learn": "sklearn/datasets/images",
    "mate": "usr/share/backgrounds/mate",
    "gnome": "usr/share/backgrounds/gnome",
    "lomiri-16.04": "usr/share/backgrounds",
    "lomiri-20.04": "usr/share/backgrounds",
    "ukui": "usr/share/backgrounds",
    "plasma": "usr/share/wallpapers",
    "stellarium": "usr/share/stellarium/landscapes",
    "fotoxx": "usr/share/fotoxx/images",
    "xplanet": "usr/share/xplanet/images",
    "gimp-help": "usr/share/gimp/2.0/help/en/images",
}
"""Where the images lie in each package."""

Box = tuple[float, float, float, float]
Window = tuple[str, str, Box]
"""Name, kind, and left, top, right and bottom as shares."""

WHOLE: Box = (0, 0, 1, 1)


def _wallpaper(name: str, size: str = "2560x1600.jpg") -> tuple[str, str]:
    return "plasma", f"{name}/contents/images/{size}"


PHOTOS: dict[tuple[str, str], tuple[Window, ...]] = {
    ("lomiri-16.04", "Bridge_by_Sander_Klootwijk.jpg"): (
        ("bridge cables", "bridge", (0.45, 0, 0.95, 0.85)),
        ("wide tidal flat", "landscape", (0, 0.5, 0.43, 1)),
    ),
    ("lomiri-16.04", "Dragonfly_by_Bolly.jpg"): (
        ("dragonfly on a branch", "insect", (0.42, 0.25, 0.8, 0.95)),
        ("leaves against the sky", "plant", (0, 0.1, 0.4, 0.7)),
    ),
    ("lomiri-16.04", "Picture_0B_by_freespace.jpg"): (("fig in a red bowl", "fruit", WHOLE),),
    ("lomiri-16.04", "Picture_1A_by_freespace.jpg"): (
        ("blue paint brush", "tool", (0, 0.05, 0.38, 1)),
        ("pink bristles", "tool", (0.36, 0.15, 0.62, 0.75)),
        ("wooden paint brushes", "tool", (0.63, 0.1, 1, 1)),
    ),
    ("lomiri-16.04", "Wine_by_Jakkub_Mede.jpg"): (
        ("straw hat on a beanbag", "clothing", (0, 0.55, 1, 1)),
        ("wine bottle on a table", "room", (0.15, 0.08, 0.9, 0.52)),
    ),
    ("lomiri-16.04", "aitzgorri_by_Aitzol_Berasategi.jpg"): (
        ("rocky mountain ridge", "landscape", (0, 0, 0.52, 0.6)),
        ("fir trees by a meadow", "tree", (0.58, 0.35, 1, 0.85)),
        ("green meadow", "landscape", (0, 0.68, 0.55, 1)),
    ),
    ("lomiri-16.04", "free_by_Peter_Nerlich.jpg"): (
        ("flying budgie", "bird", (0.25, 0.55, 0.75, 1)),
        ("round ceiling lamps", "lamp", (0.1, 0, 0.85, 0.5)),
    ),
    ("lomiri-16.04", "friends_by_Aitzol_Berasategi.jpg"): (
        ("two puppies", "dog", (0.15, 0.15, 0.85, 0.7)),
    ),
    ("lomiri-16.04", "greentock_by_Peter_Nerlich.jpg"): (("green wall clock", "clock", WHOLE),),
    ("lomiri-16.04", "life_by_Aitzol_Berasategi.jpg"): (
        ("small waterfall", "water", (0.32, 0.38, 0.68, 1)),
        ("forest rocks", "landscape", (0, 0, 0.33, 0.6)),
        ("trees on a stream bank", "landscape", (0.68, 0, 1, 0.55)),
    ),
    ("lomiri-16.04", "picosdeeuropa_by_Aitzol_Berasategi.jpg"): (
        ("snowy mountain peaks", "landscape", (0.48, 0.12, 1, 0.62)),
        ("path on a hillside", "landscape", (0, 0.5, 0.45, 1)),
        ("cloud behind a ridge", "sky", (0.05, 0, 0.45, 0.5)),
    ),
    ("lomiri-16.04", "seeding_by_Clements_Engelhardt.jpg"): (
        ("dandelion clock", "flower", (0.1, 0.1, 0.45, 0.95)),
        ("dandelion meadow", "landscape", (0.5, 0.2, 1, 1)),
    ),
    ("lomiri-16.04", "sunset_by_Aitzol_Berasategi.jpg"): (
        ("sunset over hills", "sky", (0.25, 0.1, 0.75, 0.58)),
        ("stone on a summit", "landscape", (0.52, 0.6, 0.97, 1)),
    ),
    ("lomiri-20.04", "Kleiber_by_Lukas_Baubkus.jpg"): (
        ("nuthatch on a trunk", "bird", (0.3, 0.3, 0.65, 0.8)),
        ("tree bark", "tree", (0, 0, 0.3, 0.6)),
    ),
    ("mate", "nature/Aqua.jpg"): (("water drop splash", "water", (0.48, 0.25, 0.9, 0.95)),),
    ("mate", "nature/Blinds.jpg"): (("leaf veins", "plant", WHOLE),),
    ("mate", "nature/Dune.jpg"): (
        ("dune grass", "plant", (0, 0.35, 0.55, 1)),
        ("grass by the sea", "landscape", (0.58, 0, 1, 0.6)),
    ),
    ("mate", "nature/FreshFlower.jpg"): (("orange blossom", "flower", WHOLE),),
    ("mate", "nature/Garden.jpg"): (("marigold", "flower", (0.42, 0.1, 1, 1)),),
    ("mate", "nature/GreenMeadow.jpg"): (("green grass", "plant", WHOLE),),
    ("mate", "nature/LadyBird.jpg"): (
        ("ladybird on a stem", "insect", (0.5, 0.35, 0.85, 0.75)),
        ("forget-me-nots", "flower", (0.05, 0.05, 0.45, 0.5)),
        ("bent blade of grass", "plant", (0.15, 0.5, 0.48, 1)),
    ),
    ("mate", "nature/RainDrops.jpg"): (("rain drops on a leaf", "plant", (0.3, 0.1, 0.85, 0.9)),),
    ("mate", "nature/Storm.jpg"): (
        ("storm clouds", "sky", (0, 0, 1, 0.55)),
        ("road with a guard rail", "road", (0.1, 0.58, 0.9, 1)),
    ),
    ("mate", "nature/TwoWings.jpg"): (("dandelion seeds", "plant", WHOLE),),
    ("mate", "nature/Wood.jpg"): (("wood grain", "texture", WHOLE),),
    ("mate", "nature/YellowFlower.jpg"): (("yellow flower", "flower", (0.25, 0, 1, 1)),),
    _wallpaper("BytheWater"): (("planks by the water", "landscape", WHOLE),),
    _wallpaper("ColdRipple"): (("pier in the fog", "landscape", WHOLE),),
    _wallpaper("ColorfulCups"): (
        ("blue cups", "cup", (0, 0.2, 0.48, 1)),
        ("pink cups", "cup", (0.56, 0, 1, 0.75)),
    ),
    _wallpaper("DarkestHour"): (("dark lake", "landscape", WHOLE),),
    _wallpaper("EveningGlow"): (
        ("rowing boats on the shore", "boat", (0, 0.5, 0.48, 1)),
        ("orange evening clouds", "sky", (0, 0, 0.48, 0.45)),
        ("row of wooden boats", "boat", (0.52, 0.5, 1, 1)),
        ("sunset over a lake", "sky", (0.52, 0, 1, 0.47)),
    ),
    _wallpaper("FallenLeaf"): (
        ("maple leaf", "plant", (0.5, 0.35, 0.9, 0.95)),
        ("blurred red leaf", "plant", (0.12, 0.05, 0.5, 0.55)),
    ),
    _wallpaper("Grey"): (("curved white facade", "building", WHOLE),),
    _wallpaper("Kite"): (
        ("rainbow kite", "kite", (0.5, 0.15, 0.85, 0.6)),
        ("thin clouds", "sky", (0, 0.3, 0.45, 1)),
    ),
    _wallpaper("OneStandsOut"): (
        ("orange moss star", "plant", (0.5, 0.25, 0.9, 0.8)),
        ("green moss", "plant", (0, 0.1, 0.45, 0.8)),
    ),
    _wallpaper("Path"): (
        ("forest path", "landscape", (0, 0.4, 0.5, 1)),
        ("dark tree trunks", "tree", (0.52, 0, 1, 0.6)),
    ),
    _wallpaper("summer_1am"): (("lake at night", "landscape", WHOLE),),
    ("scikit-image", "astronaut.png"): (
        ("smiling astronaut", "person", (0.22, 0, 0.6, 0.45)),
        ("black helmet", "helmet", (0.58, 0.62, 1, 1)),
        ("space shuttle model", "model", (0.64, 0, 0.95, 0.6)),
        ("orange space suit", "clothing", (0.1, 0.5, 0.55, 1)),
    ),
    ("scikit-image", "motorcycle_left.png"): (
        ("red motorcycle", "vehicle", (0.13, 0.28, 0.95, 1)),
        ("boxes on a shelf", "room", (0.5, 0, 1, 0.3)),
    ),
    ("scikit-image", "rocket.jpg"): (("rocket on a launch pad", "rocket", (0.2, 0.1, 0.9, 1)),),
    ("scikit-image", "coffee.png"): (("cup of espresso", "drink", WHOLE),),
    ("scikit-image", "brick.png"): (("brick wall", "texture", WHOLE),),
    ("scikit-image", "camera.png"): (("cameraman", "person", WHOLE),),
    ("scikit-image", "cell.png"): (("single cell", "microscope image", WHOLE),),
    ("scikit-image", "chelsea.png"): (("tabby cat", "cat", WHOLE),),
    ("scikit-image", "clock_motion.png"): (("moving clock", "clock", WHOLE),),
    ("scikit-image", "coins.png"): (("rows of old coins", "money", WHOLE),),
    ("scikit-image", "grass.png"): (("dry grass", "texture", WHOLE),),
    ("scikit-image", "gravel.png"): (("gravel", "texture", WHOLE),),
    ("scikit-image", "hubble_deep_field.jpg"): (("distant galaxies", "sky", WHOLE),),
    ("scikit-image", "ihc.png"): (("stained tissue", "microscope image", WHOLE),),
    ("scikit-image", "moon.png"): (("moon craters", "landscape", WHOLE),),
    ("scikit-image", "retina.jpg"): (("retina", "medical image", WHOLE),),
    ("scikit-image", "text.png"): (("handwritten formulas", "handwriting", WHOLE),),
    ("scikit-learn", "china.jpg"): (
        ("pagoda", "building", (0.05, 0.02, 0.58, 0.9)),
        ("trees by a misty lake", "landscape", (0.6, 0.2, 1, 0.95)),
    ),
    ("scikit-learn", "flower.jpg"): (("orange dahlia", "flower", WHOLE),),
    ("fotoxx", "blur-background2.jpg"): (("pink water lily", "flower", WHOLE),),
    ("fotoxx", "area-rescale2.jpg"): (("boats on a green river", "landscape", (0, 0, 0.48, 1)),),
    ("fotoxx", "chromatic1A.jpg"): (("ice below a rock wall", "landscape", (0, 0, 0.49, 1)),),
    ("fotoxx", "copy-pixels-1b.jpg"): (
        ("two people by the sea", "beach", (0.2, 0.35, 0.58, 1)),
        ("sailing boats offshore", "boat", (0.6, 0.3, 1, 0.7)),
    ),
    ("fotoxx", "emboss2.jpg"): (("old corner house", "building", WHOLE),),
    ("fotoxx", "escher_spiralA.jpg"): (
        ("white wall clock", "clock", (0, 0, 0.5, 1)),
        ("spiral clock face", "clock", (0.5, 0, 1, 1)),
    ),
    ("fotoxx", "flatten2.jpg"): (("arched bridge at dusk", "bridge", (0, 0, 1, 0.5)),),
    ("fotoxx", "gradients2.jpg"): (("wet leaf with an insect", "plant", (0, 0, 0.5, 1)),),
    ("fotoxx", "jpeg-quality.jpg"): (("white orchid", "flower", (0, 0, 0.49, 0.86)),),
    ("fotoxx", "make-waves.jpg"): (
        ("red brick houses", "building", (0, 0, 0.5, 0.75)),
        ("bus shelter", "street", (0.48, 0.4, 0.95, 1)),
    ),
    ("fotoxx", "mashup.jpg"): (("yellow vintage car", "vehicle", (0, 0.5, 0.62, 1)),),
    ("fotoxx", "panorama1.jpg"): (("living room", "room", (0.1, 0.1, 0.9, 0.9)),),
    ("fotoxx", "smart-erase2.jpg"): (("snow on the Alps", "landscape", (0, 0, 0.49, 1)),),
    ("fotoxx", "zonal retinex2.jpg"): (("church interior", "building", (0.5, 0, 1, 1)),),
    ("fotoxx", "mirror2.jpg"): (("bust of a queen", "sculpture", (0, 0, 0.4, 1)),),
    ("fotoxx", "blur2.jpg"): (("bouquet with a sunflower", "flower", (0, 0, 0.33, 0.46)),),
    ("fotoxx", "pattern2.jpg"): (("painted woman with long hair", "painting", WHOLE),),
    ("gimp-help", "filters/examples/taj_orig.jpg"): (("Taj Mahal", "building", WHOLE),),
    ("gimp-help", "filters/examples/blur/mean_curvature-ex-1.jpg"): (
        ("salmon rose", "flower", WHOLE),
    ),
    ("gimp-help", "filters/examples/distort/spherize-defaults.jpg"): (
        ("daisies", "flower", WHOLE),
    ),
    ("gimp-help", "filters/examples/light-and-shadow/vignette-ex-default.jpg"): (
        ("ground squirrel", "animal", WHOLE),
    ),
    ("gimp-help", "filters/examples/map/little_planet-flip.jpg"): (
        ("green plain under blue sky", "landscape", WHOLE),
    ),
    ("gimp-help", "filters/examples/map/pan-project-origin.jpg"): (
        ("garden fence by a path", "garden", (0.2, 0.3, 0.8, 1)),
    ),
    ("gimp-help", "filters/examples/tone-mapping-fattal.jpg"): (
        ("cartridges and pencils", "object", WHOLE),
    ),
    ("gimp-help", "menus/colors/components/compose-channels-ex1.jpg"): (
        ("red and pink zinnias", "flower", WHOLE),
    ),
    ("gimp-help", "tutorials/quickie-background-free-select.jpg"): (
        ("yellow daisy", "flower", WHOLE),
    ),
    ("gimp-help", "tutorials/quickie-crop-example-result.jpg"): (("mallard duck", "bird", WHOLE),),
    ("gimp-help", "tutorials/quickie-flip-example-horizontal.jpg"): (
        ("bagpipe band in red", "people", WHOLE),
    ),
    ("gimp-help", "tutorials/quickie-jpeg-040.jpg"): (("red vintage car", "vehicle", WHOLE),),
    ("gimp-help", "tutorials/quickie-rotate-example-90-CCW.jpg"): (
        ("stained glass window", "window", WHOLE),
    ),
    ("gimp-help", "tutorials/tone-mapping/power-lines.jpg"): (
        ("power line masts", "landscape", (0.38, 0, 1, 0.75)),
    ),
    ("stellarium", "garching/garching-gl1.png"): (("yellow rape field", "plant", WHOLE),),
    ("stellarium", "guereins/guereins2.png"): (("barn on a meadow", "building", WHOLE),),
    ("stellarium", "guereins/guereins8.png"): (("oak by a house", "tree", WHOLE),),
    ("stellarium", "hurricane/hurricane1.png"): (("snowy fir trees", "tree", WHOLE),),
    ("stellarium", "hurricane/hurricane6.png"): (("snowy slope", "landscape", WHOLE),),
    ("stellarium", "ocean/ocean1.png"): (("under the sea surface", "water", WHOLE),),
    ("stellarium", "moon/apollo17.png"): (
        ("lunar landing site", "landscape", (0.2, 0.35, 0.65, 0.85)),
    ),
    ("stellarium", "mars/mars.png"): (
        ("rover on Mars", "landscape", (0.15, 0.45, 0.6, 1)),
        ("hills of Mars", "landscape", (0.62, 0.35, 1, 0.9)),
    ),
    ("xplanet", "earth.jpg"): (
        ("North America from space", "satellite image", (0.06, 0.1, 0.34, 0.49)),
        ("South America from space", "satellite image", (0.26, 0.5, 0.42, 0.84)),
        ("Africa from space", "satellite image", (0.44, 0.29, 0.66, 0.72)),
        ("Australia from space", "satellite image", (0.79, 0.54, 0.95, 0.78)),
        ("South Asia from space", "satellite image", (0.67, 0.28, 0.86, 0.54)),
        ("Europe from space", "satellite image", (0.45, 0.1, 0.62, 0.28)),
        ("Greenland from space", "satellite image", (0.34, 0.02, 0.45, 0.2)),
    ),
}

AUTHORS: dict[str, tuple[str, str]] = {
    "Bridge_by_Sander_Klootwijk.jpg": ("CC-BY-SA-4.0", "Sander Klootwijk, 2018"),
    "Dragonfly_by_Bolly.jpg": ("CC-BY-SA-4.0", "Bolly, 2018"),
    "Picture_0B_by_freespace.jpg": ("CC-BY-4.0", 'Trevor "Freespace", 2018'),
    "Picture_1A_by_freespace.jpg": ("CC-BY-4.0", 'Trevor "Freespace", 2018'),
    "Wine_by_Jakkub_Mede.jpg": ("CC-BY-4.0", "Jakub Mede, 2018"),
    "aitzgorri_by_Aitzol_Berasategi.jpg": ("CC-BY-4.0", "Aitzol Berasategi, 2018"),
    "friends_by_Aitzol_Berasategi.jpg": ("CC-BY-4.0", "Aitzol Berasategi, 2018"),
    "life_by_Aitzol_Berasategi.jpg": ("CC-BY-4.0", "Aitzol Berasategi, 2018"),
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": ("CC-BY-4.0", "Aitzol Berasategi, 2018"),
    "sunset_by_Aitzol_Berasategi.jpg": ("CC-BY-4.0", "Aitzol Berasategi, 2018"),
    "umang_by_Abhishek_Mudgal.jpg": ("CC-BY-4.0", "Abhishek Mudgal, 2018"),
    "analogpattern_by_Peter_Nerlich.jpg": ("CC-BY-SA-4.0", "Peter Nerlich, 2018"),
    "free_by_Peter_Nerlich.jpg": ("CC-BY-SA-4.0", "Peter Nerlich, 2018"),
    "greentock_by_Peter_Nerlich.jpg": ("CC-BY-SA-4.0", "Peter Nerlich, 2018"),
    "seeding_by_Clements_Engelhardt.jpg": ("CC0-1.0", "Clemens Engelhardt, 2018"),
    "Fossa_by_Jasper_Roks.jpg": ("CC-BY-SA-3.0", "Jasper Roks, 2023"),
    "Infinite-Sea_by_Aury88.jpg": ("CC-BY-SA-3.0", "Aury88, 2019"),
    "Kleiber_by_Lukas_Baubkus.jpg": ("CC-BY-SA-3.0", "Lukas Baubkus, 2021"),
    "Painting-Colors_by__herobrine7gamer.jpg": ("CC-BY-SA-3.0", "HEROBRINE7GAMER, 2021"),
    "nature/Aqua.jpg": ("GPL-2.0-or-later", "Charles Barbin, 2008"),
    "nature/LadyBird.jpg": ("GPL-2.0-or-later", "Charles Barbin, 2008"),
    "nature/YellowFlower.jpg": ("GPL-2.0-or-later", "Charles Barbin, 2008"),
    "nature/Garden.jpg": ("GPL-2.0-or-later", "Charles Barbin, 2008"),
    "nature/Blinds.jpg": ("GPL-2.0-or-later", "Lennart Poettering and Andrea Cimitan, 2008"),
    "nature/Dune.jpg": ("GPL-2.0-or-later", "Marco Cogoni and Hylke Bons, 2008"),
    "nature/FreshFlower.jpg": ("GPL-2.0-or-later", "Jens Ansorg, 2005"),
    "nature/GreenMeadow.jpg": ("GPL-2.0-or-later", "Timothy Schellhase and Lapo Calamandrei, 2008"),
    "nature/RainDrops.jpg": ("GPL-2.0-or-later", "blackcombwhistler07, 2008"),
    "nature/Storm.jpg": ("GPL-2.0-or-later", "Sergey Nazarov, 2008"),
    "nature/TwoWings.jpg": ("GPL-2.0-or-later", "Charles Barbin and Hylke Bons, 2008"),
    "nature/Wood.jpg": ("GPL-2.0-or-later", "Jean-François Fortin Tam, 2008"),
    "abstract/Elephants.jpg": ("GPL-2.0-or-later", "Wyng Stancikaite, 2020"),
    "BytheWater/contents/images/2560x1600.jpg": ("LGPL-3.0", "Maciej Wiklo"),
    "ColdRipple/contents/images/2560x1600.jpg": ("LGPL-3.0", "Risto Saukonpää"),
    "ColorfulCups/contents/images/2560x1600.jpg": ("LGPL-3.0", "Dmitri Popov"),
    "DarkestHour/contents/images/2560x1600.jpg": ("LGPL-3.0", "Risto Saukonpää"),
    "EveningGlow/contents/images/2560x1600.jpg": ("LGPL-3.0", "Ian Hex"),
    "FallenLeaf/contents/images/2560x1600.jpg": ("LGPL-3.0", "Martin Klapetek"),
    "Grey/contents/images/2560x1600.jpg": ("LGPL-3.0", "Sigi Sagi"),
    "Kite/contents/images/2560x1600.jpg": ("LGPL-3.0", "Risto Saukonpää"),
    "OneStandsOut/contents/images/2560x1600.jpg": ("LGPL-3.0", "Risto Saukonpää"),
    "Path/contents/images/2560x1600.jpg": ("LGPL-3.0", "Risto Saukonpää"),
    "summer_1am/contents/images/2560x1600.jpg": ("LGPL-3.0", "Risto Saukonpää"),
    "Autumn/contents/images/2560x1600.jpg": ("LGPL-3.0", "RJ Quiralta"),
    "Canopee/contents/images/3840x2160.png": ("LGPL-3.0", "Ken Vermette"),
    "Cascade/contents/images/3840x2160.png": ("LGPL-3.0", "Ken Vermette"),
    "Cluster/contents/images/3840x2160.png": ("LGPL-3.0", "Ken Vermette"),
    "Altai/contents/images/5120x2880.png": ("CC-BY-SA-4.0", "Alesya Khoteeva"),
    "Flow/contents/images/5120x2880.jpg": ("CC-BY-SA-4.0", "Sandra Smukaste"),
    "Honeywave/contents/images/5120x2880.jpg": ("CC-BY-SA-4.0", "Ken Vermette"),
    "IceCold/contents/images/5120x2880.png": ("CC-BY-SA-4.0", "Santiago Cézar"),
    "Kay/contents/images/5120x2880.png": ("CC-BY-SA-4.0", "ruvkr"),
}
"""Licence and author of single files."""

PLAIN_WINDOWS: tuple[tuple[str, str], ...] = (
    ("gnome", "adwaita-l.webp"),
    ("gnome", "grid-l.webp"),
    ("gnome", "licorice-l.webp"),
    ("gnome", "pixels-l.webp"),
    ("gnome", "truchet-l.webp"),
    ("gnome", "truchet-d.webp"),
    ("gnome", "wood-l.webp"),
    ("lomiri-16.04", "umang_by_Abhishek_Mudgal.jpg"),
    ("lomiri-16.04", "analogpattern_by_Peter_Nerlich.jpg"),
    ("lomiri-20.04", "Fossa_by_Jasper_Roks.jpg"),
    ("lomiri-20.04", "Infinite-Sea_by_Aury88.jpg"),
    ("lomiri-20.04", "Painting-Colors_by__herobrine7gamer.jpg"),
    ("mate", "abstract/Elephants.jpg"),
    ("ukui", "2004default.jpg"),
    ("ukui", "calla.png"),
    ("ukui", "fluent-color.png"),
    ("ukui", "goldfish.png"),
    ("ukui", "rhythm.jpg"),
    ("ukui", "string.jpg"),
    ("ukui", "rollpaper.png"),
    _wallpaper("Autumn"),
    _wallpaper("Altai", "5120x2880.png"),
    _wallpaper("Canopee", "3840x2160.png"),
    _wallpaper("Cascade", "3840x2160.png"),
    _wallpaper("Cluster", "3840x2160.png"),
    _wallpaper("Flow", "5120x2880.jpg"),
    _wallpaper("Honeywave", "5120x2880.jpg"),
    _wallpaper("IceCold", "5120x2880.png"),
    _wallpaper("Kay", "5120x2880.png"),
)
"""Paintings and patterns of which only details are shown, in the crowd."""
