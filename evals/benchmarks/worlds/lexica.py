"""The words of the world `worded`, in the order of their rank. No word is in two lexica.

No word may mark an answer for `evals.grading` ("answer", "final", "is") or stand for a number.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CONNECTIVES = _words(
    """
    so then now next hence thus therefore again well okay also here meanwhile after afterwards onward moving
    continuing proceeding following accordingly consequently thereby thereupon thence whereupon likewise similarly
    further furthermore moreover besides additionally subsequently soon later presently currently already still
    yet though however nevertheless nonetheless instead otherwise rather alternatively because since as when while
    once whenever wherever provided given supposing assuming
    """
)

ADVERBS = _words(
    """
    clearly simply quickly easily surely plainly readily directly carefully neatly smoothly calmly slowly gladly
    briefly gently quietly firmly safely freely openly promptly steadily patiently cheerfully happily eagerly
    kindly politely warmly brightly boldly bravely proudly honestly frankly truly really certainly definitely
    obviously evidently apparently naturally normally usually generally typically commonly regularly routinely
    properly suitably nicely wisely cleverly smartly skilfully deftly swiftly rapidly briskly instantly
    immediately suddenly gradually
    """
)

VERBS = _words(
    """
    gives makes yields reaches leaves brings shows becomes produces returns finds obtains gets receives takes
    holds keeps sees reads writes notes counts computes derives deduces concludes infers offers provides supplies
    delivers creates forms builds generates reveals presents displays records marks states reports announces
    declares claims suggests indicates signals hits meets
    """
)

CLOSINGS = _words(
    """
    finally overall altogether eventually lastly ultimately summing closing ending finishing completing wrapping
    settling arriving landing stopping resting concluding totalling resulting outcome total result value solution
    conclusion end finish close summary upshot verdict outturn product reply response output
    """
)

NAMES = _words(
    """
    Mia Ben Ana Tom Eva Max Lea Tim Zoe Sam Ida Leo Amy Jan Uma Kai Liv Dan Nia Rob Ella Finn Ruth Otto Nora Paul
    Lucy Hugo Vera Karl Rosa Emil Anna Noah Jane Adam Lena Erik Sara Ivan Mary Luke Tess Omar June Alan Faye Carl
    Beth Dean Gina Evan Hope Glen Iris Hank Jade Ian Kate Jack Lily Kurt Maya Lars Nina Mark Olga Neil Rita Owen
    Sofia Pete Tara Ray Wendy Seth Yara Theo Zara Toby Alice Bruno Clara David Diana Felix Emma Gavin Fiona Henry
    Grace Jacob Helen Kevin Irene Liam Julia Martin Karen Nathan
    """
)

QUALITIES = _words(
    """
    red blue green white black brown grey pink old new big small tall short long wide thin thick heavy light soft hard
    clean dusty shiny plain round flat square cheap
    """
)

OBJECTS = _words(
    """
    pens cups books coins keys maps hats bags boxes cards stamps shells stones beads bells balls kites dolls cars
    boats trains planes bikes drums flutes lamps clocks rings chains ropes nails screws bolts bricks tiles boards
    plates bowls forks spoons knives pots pans jars bottles cans baskets towels sheets pillows rugs chairs tables
    desks shelves doors windows fences gates apples pears plums grapes figs dates nuts seeds beans peas carrots
    onions leeks herbs roses tulips lilies ferns trees stems roots twigs cats dogs birds fish frogs ants bees
    moths snails crabs goats sheep cows pigs ducks hens
    """
)
